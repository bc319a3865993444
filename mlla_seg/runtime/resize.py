"""Resizing in NumPy for the runtime, equivalent to :mod:`mlla_seg.data.resampling` and torch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mlla_seg.data.formats.picture import Array

CUBIC = -0.5
"""Coefficient of the Keys cubic kernel, as in torch's antialiased interpolation."""


def resize_images(images: Array, size: tuple[int, int]) -> Array:
    """Resize ``(..., H, W)`` by cubic interpolation, antialiased when shrinking."""
    if images.shape[-2:] == size:
        return images
    height, width = images.shape[-2:]
    return (cubic_weights(height, size[0]) @ images @ cubic_weights(width, size[1]).T).astype(np.float32)


def resize_logits(logits: Array, size: tuple[int, int]) -> Array:
    """Resize ``(..., H, W)`` by bilinear interpolation."""
    if logits.shape[-2:] == size:
        return logits
    height, width = logits.shape[-2:]
    return (linear_weights(height, size[0]) @ logits @ linear_weights(width, size[1]).T).astype(np.float32)


def fill_gaps(images: Array) -> Array:
    """Replace NaN in ``(..., C, H, W)`` by the mean of its channel, or by 0 in channels without data."""
    gaps = np.isnan(images)
    if not gaps.any():
        return images
    present = (~gaps).sum(axis=(-2, -1), keepdims=True)
    means = np.where(gaps, 0, images).sum(axis=(-2, -1), keepdims=True, dtype=np.float64) / np.maximum(present, 1)
    return np.where(gaps, means, images).astype(np.float32)


@lru_cache(maxsize=16)
def cubic_weights(stored: int, wanted: int) -> Array:
    """Return cubic weights ``(wanted, stored)`` along an axis; the kernel radius is two pixels of the coarser grid."""
    scale = np.float32(stored) / np.float32(wanted)  # torch computes positions in this precision
    wide = max(scale, np.float32(1))
    centres = scale * (np.arange(wanted, dtype=np.float32) + np.float32(0.5))
    first = np.maximum((centres - 2 * wide + 0.5).astype(int), 0)
    end = np.minimum((centres + 2 * wide + 0.5).astype(int), stored)
    pixels = np.arange(stored, dtype=np.float32)
    distance = np.abs(pixels + np.float32(0.5) - centres[:, None]) / wide
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * CUBIC - 4 * CUBIC
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    weights = np.where((pixels >= first[:, None]) & (pixels < end[:, None]), weights, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=16)
def linear_weights(stored: int, wanted: int) -> Array:
    """Return linear weights ``(wanted, stored)`` along an axis; values beyond the outer pixels are replicated."""
    scale = np.float32(stored) / np.float32(wanted)
    places = (scale.astype(np.float64) * (np.arange(wanted) + 0.5) - 0.5).astype(np.float32)  # fused, as in torch
    places = np.clip(places, 0, stored - 1)
    return np.maximum(0, 1 - np.abs(np.arange(stored, dtype=np.float32) - places[:, None])).astype(np.float32)

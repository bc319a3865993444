"""Images and logits as arrays at another size, as :mod:`mlla_seg.data.resampling` and torch do it: for the runtime."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
CUBIC = -0.5
"""Keys' coefficient of the cubic kernel that torch's antialiased interpolation uses."""


def resize_images(images: Array, size: tuple[int, int]) -> Array:
    """Resizes ``(..., H, W)`` by cubic interpolation, smoothed where it shrinks."""
    if images.shape[-2:] == size:
        return images
    height, width = images.shape[-2:]
    return (cubic_weights(height, size[0]) @ images @ cubic_weights(width, size[1]).T).astype(np.float32)


def resize_logits(logits: Array, size: tuple[int, int]) -> Array:
    """Resizes ``(..., H, W)`` by linear interpolation along both axes."""
    if logits.shape[-2:] == size:
        return logits
    height, width = logits.shape[-2:]
    return (linear_weights(height, size[0]) @ logits @ linear_weights(width, size[1]).T).astype(np.float32)


def fill_gaps(images: Array) -> Array:
    """Puts the mean of its channel in place of NaN in ``(..., C, H, W)``, 0 in channels without any value."""
    gaps = np.isnan(images)
    if not gaps.any():
        return images
    present = (~gaps).sum(axis=(-2, -1), keepdims=True)
    means = np.where(gaps, 0, images).sum(axis=(-2, -1), keepdims=True, dtype=np.float64) / np.maximum(present, 1)
    return np.where(gaps, means, images).astype(np.float32)


@lru_cache(maxsize=16)
def cubic_weights(stored: int, wanted: int) -> Array:
    """Weights ``(wanted, stored)`` of the pixels of an axis, of a kernel as wide as two pixels of the coarser grid."""
    scale = np.float32(stored) / np.float32(wanted)  # torch finds places in this precision, and differs by it
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
    """Weights ``(wanted, stored)`` of the two pixels around each place; beyond the outer ones their values go on."""
    scale = np.float32(stored) / np.float32(wanted)
    places = (scale.astype(np.float64) * (np.arange(wanted) + 0.5) - 0.5).astype(np.float32)  # fused, as in torch
    places = np.clip(places, 0, stored - 1)
    return np.maximum(0, 1 - np.abs(np.arange(stored, dtype=np.float32) - places[:, None])).astype(np.float32)

"""Normalisation of intensities: clip to the intensity window, such as that of CT, and standardise.

The network calls it on raw units; training calls it before augmentation. Channels that the card normalises per case
go through :func:`mlla_seg.data.slices.standardised` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def normalise(
    images: Tensor,
    mean: Tensor,
    std: Tensor,
    window: Tensor,
    clips: bool = False,
    per_image: bool = False,
    own: Tensor | None = None,
) -> Tensor:
    """Clip intensities to a window and standardise them.

    Args:
        images: ``(..., C, H, W)`` float32 in raw units.
        mean: ``(C,)``, after clipping.
        std: ``(C,)``, after clipping.
        window: ``(2,)`` intensity window in raw units, or ``(C, 2)`` for one per channel.
        clips: Whether to clip to the window.
        per_image: Standardise each channel of each image by its own mean and standard deviation instead.
        own: ``(H, W)`` bool, true for the image's own pixels and false for padding; by default all true.
    """
    if clips:
        low, high = window[..., 0, None, None], window[..., 1, None, None]
        images = torch.minimum(torch.maximum(images, low), high)
    if not per_image:
        return (images - mean[:, None, None]) / std[:, None, None]
    if own is None:
        deviation, average = torch.std_mean(images, dim=(-2, -1), keepdim=True, correction=0)
    else:
        pixels = images.flatten(-2).index_select(-1, own.flatten().nonzero()[:, 0])
        deviation, average = torch.std_mean(pixels[..., None], dim=(-2, -1), keepdim=True, correction=0)
    return (images - average) / (deviation + 1e-6)  # avoids division by zero for constant images


def window_tensor(window: Sequence[Any] | None) -> Tensor:
    """Return the window as the argument of :func:`normalise`: ``(low, high)``, or one per channel, None to keep all."""
    if window is None:
        return torch.zeros(2)
    everything = (-torch.finfo(torch.float32).max, torch.finfo(torch.float32).max)
    return torch.tensor([everything if entry is None else entry for entry in window], dtype=torch.float32)

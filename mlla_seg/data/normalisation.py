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
    axes: int = 2,
) -> Tensor:
    """Clip intensities to a window and standardise them.

    Args:
        images: ``(..., C, *spatial)`` float32 in raw units.
        mean: ``(C,)``, after clipping.
        std: ``(C,)``, after clipping.
        window: ``(2,)`` intensity window in raw units, or ``(C, 2)`` for one per channel.
        clips: Whether to clip to the window.
        per_image: Standardise each channel of each image by its own mean and standard deviation instead.
        own: ``(*spatial)`` bool, true for the image's own pixels and false for padding; by default all true.
        axes: Number of spatial axes.
    """
    low, high = window[..., 0], window[..., 1]
    for _ in range(axes):
        mean, std, low, high = mean[..., None], std[..., None], low[..., None], high[..., None]
    if clips:
        images = torch.minimum(torch.maximum(images, low), high)
    if not per_image:
        return (images - mean) / std
    spatial = list(range(-axes, 0))
    if own is None:
        deviation, average = torch.std_mean(images, dim=spatial, keepdim=True, correction=0)
    else:
        pixels = images.flatten(-axes).index_select(-1, own.flatten().nonzero()[:, 0])
        shape = list(pixels.shape[:-1]) + [-1] + [1] * (axes - 1)
        deviation, average = torch.std_mean(pixels.view(shape), dim=spatial, keepdim=True, correction=0)
    return (images - average) / (deviation + 1e-6)  # avoids division by zero for constant images


def window_tensor(window: Sequence[Any] | None) -> Tensor:
    """Return the window as the argument of :func:`normalise`: ``(low, high)``, or one per channel, None to keep all."""
    if window is None:
        return torch.zeros(2)
    everything = (-torch.finfo(torch.float32).max, torch.finfo(torch.float32).max)
    return torch.tensor([everything if entry is None else entry for entry in window], dtype=torch.float32)

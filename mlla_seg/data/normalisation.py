"""Normalisation of intensities: clip to the intensity window, such as that of CT, and standardise.

The network calls it on raw units; training calls it before augmentation. Whole volumes are standardised by
:func:`mlla_seg.data.slices.standardised` first if the card sets ``per_case``.
"""

from __future__ import annotations

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
        window: ``(2,)``, intensity window in raw units.
        clips: Whether to clip to the window.
        per_image: Standardise each channel of each image by its own mean and standard deviation instead.
        own: ``(H, W)`` bool, true for the image's own pixels and false for padding; by default all true.
    """
    if clips:
        images = torch.minimum(torch.maximum(images, window[0]), window[1])
    if not per_image:
        return (images - mean[:, None, None]) / std[:, None, None]
    if own is None:
        deviation, average = torch.std_mean(images, dim=(-2, -1), keepdim=True, correction=0)
    else:
        pixels = images.flatten(-2).index_select(-1, own.flatten().nonzero()[:, 0])
        deviation, average = torch.std_mean(pixels[..., None], dim=(-2, -1), keepdim=True, correction=0)
    return (images - average) / (deviation + 1e-6)  # avoids division by zero for constant images

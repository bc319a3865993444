"""Framing of a network's input: normalise raw units by the image's own pixels, then pad to the frame.

The frame is the patch size. A smaller image is centred in it with its border replicated, in training, prediction, the
runtime and exported files alike; a larger one is processed with a sliding window of that size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


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


def margin(size: int, frame: int) -> int:
    """Return the padding before an image centred in its frame along an axis, in pixels; 0 if it fills the frame."""
    return (at_least(size, frame) - size) // 2


def at_least(size: int, least: int) -> int:
    """Return the larger of two sizes; the first is symbolic in graphs for images of any size."""
    if torch.jit.is_scripting():
        return max(size, least)
    larger: Any = torch.sym_max(size, least)
    return larger


def pad(images: Tensor, above: int, below: int, left: int, right: int) -> Tensor:
    """Pad ``(B, C, H, W)`` by replicating its border, which unlike zeros introduces no edge."""
    return F.pad(images, (left, right, above, below), mode="replicate")

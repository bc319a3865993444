"""From raw units to what a network's encoder sees: normalised by the image's own pixels, then padded to the frame.

The frame is the size of the training samples. An image smaller than it is centred in it and its border repeated, in
training, prediction, the runtime and exported files alike; a larger one is seen through sliding windows of that size.
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
    """Clips intensities to a window and standardises them.

    Args:
        images: ``(..., C, H, W)`` float32 in raw units.
        mean: ``(C,)``, after clipping.
        std: ``(C,)``, after clipping.
        window: ``(2,)``, the range to which values are clipped, in raw units.
        clips: Whether they are.
        per_image: Standardise each channel of each image by its own mean and standard deviation instead.
        own: ``(H, W)`` bool, the pixels of the image itself where others are padding; by default all.
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
    return (images - average) / (deviation + 1e-6)  # of images that may be constant


def margin(size: int, frame: int) -> int:
    """Pixels before an image along an axis where it is centred in its frame; 0 if it is no smaller."""
    return (at_least(size, frame) - size) // 2


def at_least(size: int, least: int) -> int:
    """The larger of two sizes, of which graphs for images of any size leave the first one open."""
    if torch.jit.is_scripting():
        return max(size, least)
    larger: Any = torch.sym_max(size, least)
    return larger


def pad(images: Tensor, above: int, below: int, left: int, right: int) -> Tensor:
    """Pads ``(B, C, H, W)`` by repeating its border, which leaves no edge for a network to see, unlike zeros."""
    return F.pad(images, (left, right, above, below), mode="replicate")

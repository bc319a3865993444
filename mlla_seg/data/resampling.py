"""Resizing of images and masks, and filling of pixels without data, for the network's input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(B, C, H, W)`` with bicubic interpolation, antialiased when downsampling."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)


def stored_part(wanted: slice, size: int, stored: int) -> slice:
    """Return the pixels along an axis on which some pixels of the resized axis depend; the same if its size is kept.

    Args:
        wanted: Pixels of the resized axis.
        size: Pixels to which the axis is resized.
        stored: Pixels of the axis.
    """
    if size == stored:
        return wanted
    step = stored / size
    reach = 2 * max(step, 1) + 1  # of the bicubic filter, which is widened when downsampling; one for rounding
    first, last = (step * (edge + 0.5) for edge in (wanted.start, wanted.stop - 1))
    return slice(max(0, math.floor(first - reach)), min(stored, math.ceil(last + reach)))


def resize_part(images: Tensor, part: Sequence[slice], stored: Size, size: Size, wanted: Sequence[slice]) -> Tensor:
    """Return a part of what :func:`resize_images` makes of whole images, bit for bit, from what it depends on.

    Args:
        images: ``(B, C, h, w)``, some rows and columns of the whole images, without NaN.
        part: Which ones, see :func:`stored_part`.
        stored: Height and width of the whole images.
        size: Height and width to which they are resized.
        wanted: Rows and columns of the resized images to return; more than one column, as torch resizes images of
            one column differently.
    """
    # Columns first, as torch does. What is padded here does not reach the pixels that are wanted.
    (rows, columns), (top, left) = wanted, part
    if size[1] != stored[1]:
        padded = F.pad(images, (left.start, stored[1] - left.stop))
        images = resize_images(padded, (images.shape[2], size[1]))[..., columns].contiguous()
    if size[0] != stored[0]:
        padded = F.pad(images, (0, 0, top.start, stored[0] - top.stop))
        images = resize_images(padded, (size[0], images.shape[3]))[..., rows, :]
    return images


def nearest_pixels(wanted: slice, size: int, stored: int) -> Tensor:
    """Return the pixels along an axis that :func:`resize_masks` takes for some pixels of the resized axis."""
    return resize_masks(torch.arange(stored)[None, None], (1, size))[0, 0, wanted]


def fill_gaps(images: Tensor) -> Tensor:
    """Replace NaN in ``(..., C, H, W)`` by the mean of its channel, or by 0 in channels without any value."""
    gaps = images.isnan()
    if not gaps.any():
        return images
    means = images.nanmean(dim=(-2, -1), keepdim=True).nan_to_num(0)
    return torch.where(gaps, means, images)


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize class indices ``(B, H, W)`` with nearest-neighbour interpolation."""
    if tuple(masks.shape[-2:]) == size:
        return masks
    return F.interpolate(masks[:, None].float(), size, mode="nearest-exact")[:, 0].to(masks.dtype)

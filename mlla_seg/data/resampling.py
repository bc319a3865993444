"""Resizing of images and masks, and filling of pixels without data, for the network's input."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(B, C, H, W)`` with bicubic interpolation, antialiased when downsampling."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)


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

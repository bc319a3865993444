"""How slices are brought to a network, the same in training and prediction: neighbours as channels, and their size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from torch.nn import functional as F

Volume = TypeVar("Volume", np.ndarray[Any, Any], Tensor)


def with_neighbours(volume: Volume, positions: Sequence[int], context: int) -> Volume:
    """Slices of a volume with their neighbours as further channels (2.5-D); the first and last slice are repeated.

    Args:
        volume: ``(S, C, H, W)``, an array or a tensor.
        positions: The N slices that are wanted.
        context: Neighbours k on each side.

    Returns:
        ``(N, (2 k + 1) C, H, W)``: all channels of the slice k before, ..., of the slice, ..., of the slice k after.
    """
    last = volume.shape[0] - 1
    index = np.clip(np.asarray(positions)[:, None] + np.arange(-context, context + 1), 0, last)
    stacked = volume[index]  # (N, 2 k + 1, C, H, W)
    return stacked.reshape(len(index), -1, *volume.shape[2:])


def target_size(size: Sequence[int], resize: float | Sequence[int]) -> tuple[int, int]:
    """The ``(height, width)`` that ``resize``, itself such a pair or a factor, makes of ``size``."""
    height, width = (round(n * resize) for n in size) if isinstance(resize, (int, float)) else resize
    return max(1, height), max(1, width)


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes ``(B, C, H, W)`` by cubic interpolation, smoothed where it shrinks."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes class indices ``(B, H, W)`` by the nearest pixel."""
    if tuple(masks.shape[-2:]) == size:
        return masks
    return F.interpolate(masks[:, None].float(), size, mode="nearest-exact")[:, 0].to(masks.dtype)

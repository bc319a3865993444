"""How slices are brought to the size at which a network sees them, the same in training and prediction."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


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

"""Framing of a network's input: pad normalised images to the frame.

The frame is the patch size. A smaller image is centred in it with its border replicated, in training, prediction, the
runtime and exported files alike; a larger one is processed with a sliding window of that size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def margin(size: int, frame: int) -> int:
    """Return the padding before an image centred in its frame along an axis, in pixels; 0 if it fills the frame."""
    return (at_least(size, frame) - size) // 2


def at_least(size: int, least: int) -> int:
    """Return the larger of two sizes; the first is symbolic in graphs for images of any size."""
    if torch.jit.is_scripting():
        return max(size, least)
    if isinstance(size, Tensor):  # while torch's older exporters trace
        return size.clamp(min=least)
    larger: Any = torch.sym_max(size, least)
    return larger


def pad(images: Tensor, margins: list[int]) -> Tensor:
    """Pad ``(B, C, *spatial)`` by replicating its border, which unlike zeros introduces no edge.

    Args:
        images: Images or volumes.
        margins: Voxels before and after each axis, the last axis first, as in ``torch.nn.functional.pad``.
    """
    return F.pad(images, margins, mode="replicate")

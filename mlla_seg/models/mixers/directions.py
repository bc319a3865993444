"""Orders in which a recurrence visits the pixels of an image: the four scan directions of VMamba (arXiv 2401.10166)."""

from __future__ import annotations

import torch
from torch import Tensor

DIRECTIONS = 4


def sequences(x: Tensor) -> Tensor:
    """Return the pixels of ``(B, H, W, C)`` by rows, by columns, and both in reverse: ``(B, 4, N, C)``."""
    forward = torch.stack((x.flatten(1, 2), x.transpose(1, 2).flatten(1, 2)), dim=1)
    return torch.cat((forward, forward.flip(2)), dim=1)


def merged(y: Tensor, height: int, width: int) -> Tensor:
    """Return the sum over the directions of :func:`sequences`, each pixel at its place: ``(B, H, W, C)``."""
    rows, columns = (y[:, :2] + y[:, 2:].flip(2)).unbind(dim=1)
    return rows.unflatten(1, (height, width)) + columns.unflatten(1, (width, height)).transpose(1, 2)

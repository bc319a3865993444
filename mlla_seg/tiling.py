"""Where the windows of a sliding window lie, and how much each of their pixels weighs.

The image alone decides it, so that training, prediction and the runtime of exported networks, which has no torch, see
the same windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mlla_seg.errors import lookup

Weights = npt.NDArray[np.float64]


def _gaussian(size: int) -> Weights:
    """A Gaussian whose deviation is an eighth of the window, as nnU-Net and MONAI have it."""
    place = np.arange(size) - (size - 1) / 2
    return np.exp(-0.5 * (place / (size / 8)) ** 2)


def _cosine(size: int) -> Weights:
    """Half a wave of a sine (Hann's window, whose neighbours at half overlap add up to a constant)."""
    return np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2


BLENDS: dict[str, Callable[[int], Weights]] = {"gaussian": _gaussian, "cosine": _cosine}
"""Weights of a window's logits along one axis, by name."""


def blend_weights(window: Sequence[int], blend: str = "gaussian") -> npt.NDArray[np.float32]:
    """Weights ``(height, width)`` of a window's logits, from 0.001, as MONAI has them, to at most 1."""
    rows, columns = (lookup(BLENDS, blend, "blend")(size) for size in window)
    return np.maximum(rows[:, None] * columns, 1e-3).astype(np.float32)


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along an axis, so that they cover it; the last one is moved back to end with it."""
    step = max(1, int(window * (1 - overlap)))
    return sorted({min(start, size - window) for start in range(0, max(size - window, 0) + step, step)})


def row_bands(height: int, window: int, overlap: float) -> list[tuple[int, int]]:
    """First and end row of each band that :func:`window_logits` gives."""
    starts = window_starts(height, window, overlap)
    return list(zip(starts, [*starts[1:], height], strict=True))


def seen_by_network(
    shape: Sequence[int], grid: Sequence[int], window: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What part of an image a window is, and the size at which the network sees it.

    Args:
        shape: Height and width of the image.
        grid: Height and width to which the image is brought for the network.
        window: Height and width of windows on that grid.
    """
    parts = [min(n, max(1, round(w * n / g))) for n, g, w in zip(shape, grid, window, strict=True)]
    sizes = [max(1, round(part * g / n)) for part, n, g in zip(parts, shape, grid, strict=True)]
    return (parts[0], parts[1]), (sizes[0], sizes[1])

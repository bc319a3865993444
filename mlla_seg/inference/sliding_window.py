"""Sliding-window inference on images of any size, one row band at a time; memory does not grow with the height.

Weighted logits are accumulated one row of windows at a time; rows that no later window covers are yielded and released.
Every window is processed once. Arrays and tensors are treated alike, so that training, prediction and the runtime of
exported networks, which has no torch, share the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlla_seg.errors import lookup

Weights = npt.NDArray[np.float64]
Read = Callable[[int, int, int, int], Any]
"""Returns ``(C, height, width)`` float32 for top, left, height and width; NaN where there is no data."""


def _gaussian(size: int) -> Weights:
    """Gaussian with a standard deviation of an eighth of the window, as in nnU-Net and MONAI."""
    place = np.arange(size) - (size - 1) / 2
    return np.exp(-0.5 * (place / (size / 8)) ** 2)


def _cosine(size: int) -> Weights:
    """Squared sine (Hann window); neighbours at half overlap sum to a constant."""
    return np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2


BLENDS: dict[str, Callable[[int], Weights]] = {"gaussian": _gaussian, "cosine": _cosine}
"""Weights of a window's logits along one axis, by name."""

LEAST = 1e-3
"""Smallest weight of a window's logits, as in MONAI."""


def blend_weights(window: Sequence[int], blend: str = "gaussian") -> npt.NDArray[np.float32]:
    """Return the weights ``(height, width)`` of a window's logits, from ``LEAST`` to at most 1."""
    rows, columns = (lookup(BLENDS, blend, "blend")(size) for size in window)
    return np.maximum(rows[:, None] * columns, LEAST).astype(np.float32)


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Return the starts of windows that cover an axis; the last window is shifted back to end with it."""
    step = max(1, int(window * (1 - overlap)))
    return sorted({min(start, size - window) for start in range(0, max(size - window, 0) + step, step)})


def row_bands(height: int, window: int, overlap: float) -> list[tuple[int, int]]:
    """Return the first and end row of each row band that :func:`blended_bands` yields."""
    starts = window_starts(height, window, overlap)
    return list(zip(starts, [*starts[1:], height], strict=True))


def blended_bands(
    run: Callable[[list[Any]], Any],
    put: Callable[[npt.NDArray[np.float32]], Any],
    read: Read,
    shape: tuple[int, int],
    window: tuple[int, int],
    *,
    overlap: float = 0.5,
    blend: str = "gaussian",
    batch_size: int = 4,
    columns: tuple[int, int] | None = None,
    first: int = 0,
) -> Iterator[tuple[int, Any]]:
    """Yield blended logits from top to bottom: the first row of each row band, and ``(K, rows, columns)`` float32.

    Args:
        run: Maps n windows ``(C, h, w)`` to their logits ``(n, K, h, w)`` float32.
        put: Moves an array to the device of the logits.
        read: Reads a part of the image; windows without data are skipped.
        shape: Height and width of the whole image.
        window: Height and width of the sliding window, no larger than the image.
        overlap: Overlap of neighbouring windows, as a fraction of their size.
        blend: A key of ``BLENDS``.
        batch_size: Windows per forward pass.
        columns: First and end column to compute; all by default.
        first: Index of the row band (see :func:`row_bands`) to start from; the bands are the same as in a full run.
    """
    left, right = columns or (0, shape[1])
    starts = [c for c in window_starts(shape[1], window[1], overlap) if c < right and c + window[1] > left]
    weights = put(blend_weights(window, blend))
    weight = put(np.zeros((window[0], right - left), np.float32))
    bands = row_bands(shape[0], window[0], overlap)
    total: Any = None
    for k, (top, end) in enumerate(bands):
        if top + window[0] <= bands[first][0]:
            continue
        around = read(top, starts[0], window[0], starts[-1] + window[1] - starts[0])
        pieces = ((c, around[:, :, c - starts[0] :][:, :, : window[1]]) for c in starts)
        # The first window is run even without data, because its logits give the number of classes.
        seen = [(c, piece) for c, piece in pieces if total is None or (piece == piece).all(0).any()]
        for i in range(0, len(seen), batch_size):
            batch = seen[i : i + batch_size]
            logits = run([piece for _, piece in batch])
            if total is None:
                total = put(np.zeros((logits.shape[1], *weight.shape), np.float32))
            for (start, _), own in zip(batch, logits, strict=True):
                there = slice(max(start, left) - left, min(start + window[1], right) - left)
                here = slice(max(left - start, 0), min(right - start, window[1]))
                total[:, :, there] += own[:, :, here] * weights[:, here]
                weight[:, there] += weights[:, here]
        done = end - top
        if k >= first:
            yield top, total[:, :done] / weight[:done].clip(LEAST)  # logits of 0 where no window had data
        for sums in (total, weight):
            sums[..., : window[0] - done, :] = sums[..., done:, :] + 0  # + 0 copies, as the two overlap
            sums[..., window[0] - done :, :] = 0

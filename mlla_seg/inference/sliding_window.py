"""Sliding-window inference on images and volumes of any size; memory does not grow along the first axis.

The first axis, rows of images or slices of volumes, is traversed one band at a time: weighted logits of the windows
that start there are accumulated, and what no later window covers is yielded and released. Every window is processed
once. Arrays and tensors are treated alike, so that training, prediction and the runtime of exported networks, which has
no torch, share the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from mlla_seg.errors import lookup

Weights = npt.NDArray[np.float64]
Read = Callable[[Sequence[int], Sequence[int]], Any]
"""Returns ``(C, *sides)`` float32 for the corner and the sides of a part; NaN where there is no data."""


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
    """Return the weights of a window's logits, of its shape, from ``LEAST`` to at most 1."""
    along = [lookup(BLENDS, blend, "blend")(size) for size in window]
    return np.maximum(reduce(np.multiply.outer, along), LEAST).astype(np.float32)


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Return the starts of windows that cover an axis; the last window is shifted back to end with it."""
    step = max(1, int(window * (1 - overlap)))
    return sorted({min(start, size - window) for start in range(0, max(size - window, 0) + step, step)})


def bands_along(size: int, window: int, overlap: float) -> list[tuple[int, int]]:
    """Return the first and end index, along the first axis, of each band that :func:`blended_bands` yields."""
    starts = window_starts(size, window, overlap)
    return list(zip(starts, [*starts[1:], size], strict=True))


def blended_bands(
    run: Callable[[list[Any]], Any],
    put: Callable[[npt.NDArray[np.float32]], Any],
    read: Read,
    shape: Sequence[int],
    window: Sequence[int],
    *,
    overlap: float = 0.5,
    blend: str = "gaussian",
    batch_size: int = 4,
    columns: tuple[int, int] | None = None,
    first: int = 0,
) -> Iterator[tuple[int, Any]]:
    """Yield blended logits band by band: the first index of each along the first axis, and ``(K, n, ...)`` float32.

    Args:
        run: Maps n windows ``(C, *window)`` to their logits ``(n, K, *window)`` float32.
        put: Moves an array to the device of the logits.
        read: Reads a part of the image; windows without data are skipped.
        shape: Height and width of the whole image, or slices, height and width of a volume.
        window: The same of the sliding window, no larger than the image.
        overlap: Overlap of neighbouring windows, as a fraction of their size.
        blend: A key of ``BLENDS``.
        batch_size: Windows per forward pass.
        columns: First and end column to compute; all by default.
        first: Index of the band (see :func:`bands_along`) to start from; the bands are the same as in a full run.
    """
    computed = [*((0, n) for n in shape[1:-1]), columns or (0, shape[-1])]  # along all axes but the first
    starts = [
        [start for start in window_starts(n, size, overlap) if start < end and start + size > begin]
        for n, size, (begin, end) in zip(shape[1:], window[1:], computed, strict=True)
    ]
    corner = [own[0] for own in starts]
    sides = [own[-1] + size - own[0] for own, size in zip(starts, window[1:], strict=True)]
    weights = put(blend_weights(window, blend))
    weight = put(np.zeros((1, window[0], *(end - begin for begin, end in computed)), np.float32))
    bands = bands_along(shape[0], window[0], overlap)
    total: Any = None
    for k, (top, end) in enumerate(bands):
        if top + window[0] <= bands[first][0]:
            continue
        around = read((top, *corner), (window[0], *sides))
        pieces = [(place, around[_within(place, corner, window[1:])]) for place in product(*starts)]
        seen = [(place, piece) for place, piece in pieces if (piece == piece).all(0).any()]
        for i in range(0, len(seen), batch_size):
            batch = seen[i : i + batch_size]
            logits = run([piece for _, piece in batch])
            if total is None:
                total = put(np.zeros((logits.shape[1], *weight.shape[1:]), np.float32))
            for (place, _), own in zip(batch, logits, strict=True):
                there, here = _common(place, window[1:], computed)
                total[there] += own[here] * weights[here[1:]]
                weight[there] += weights[here[1:]]
        if total is None:  # no data so far: a window is run because its logits give the number of classes
            total = put(np.zeros((run([pieces[0][1]]).shape[1], *weight.shape[1:]), np.float32))
        done = end - top
        if k >= first:
            yield top, total[:, :done] / weight[0, :done].clip(LEAST)  # logits of 0 where no window had data
        for sums in (total, weight):
            sums[:, : window[0] - done] = sums[:, done:] + 0  # + 0 copies, as the two overlap
            sums[:, window[0] - done :] = 0


def _within(place: Sequence[int], corner: Sequence[int], window: Sequence[int]) -> tuple[slice, ...]:
    """Return where a window lies in what was read from a corner, with channels and the first axis before."""
    from_corner = (start - least for start, least in zip(place, corner, strict=True))
    return (slice(None), slice(None), *(slice(n, n + size) for n, size in zip(from_corner, window, strict=True)))


def _common(
    place: Sequence[int], window: Sequence[int], computed: Sequence[tuple[int, int]]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where the computed part of a window lies among all that is computed, and in the window."""
    there, here = [slice(None), slice(None)], [slice(None), slice(None)]
    for start, size, (begin, end) in zip(place, window, computed, strict=True):
        there.append(slice(max(start, begin) - begin, min(start + size, end) - begin))
        here.append(slice(max(begin - start, 0), min(end - start, size)))
    return tuple(there), tuple(here)

"""What a data set is like, from a few values and places of each case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Array

SAMPLE = 10_000
"""Values per channel that are kept of each case, to measure what a data set is like."""
PLACES = 500
"""Pixels of each class whose places are kept of each case, for balanced sampling."""
PART = 2**24
"""Pixels looked at once, so that a scene need not be in memory."""


def _parts(shape: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Slices, and rows of them, of ``(S, H, W)`` in order."""
    slices, height, width = shape
    rows = max(1, PART // width)
    for s in range(slices):
        for top in range(0, height, rows):
            yield s, slice(top, min(top + rows, height))


def _evenly(count: int, limit: int, first: int, here: int) -> Array:
    """Which of ``here`` things are chosen, where ``first`` came before them, of ``count`` in all.

    At most ``limit`` are chosen, spread over all of them: the k-th begins the k-th of ``limit`` equal parts.
    """
    if count <= limit:
        return np.arange(here)
    wanted = np.arange(-(-first * limit // count), -(-(first + here) * limit // count))
    return wanted * count // limit - first


def class_places(mask: Array, voxels: Sequence[int]) -> Array:
    """Pixels of every class of ``(S, H, W)``, at most ``PLACES`` each, evenly drawn.

    Args:
        mask: Class indices.
        voxels: How many there are of each class.

    Returns:
        Rows of class, slice, row and column, int32, by class.
    """
    places: list[list[Array]] = [[] for _ in voxels]
    seen = np.zeros(len(voxels), np.int64)
    for s, rows in _parts(mask.shape):
        part = mask[s, rows]
        for k in np.flatnonzero(np.bincount(part.ravel(), minlength=256)[: len(voxels)]).tolist():
            found = np.flatnonzero(part == k)
            chosen = found[_evenly(int(voxels[k]), PLACES, int(seen[k]), len(found))]
            seen[k] += len(found)
            where = np.unravel_index(chosen, part.shape)
            numbers = (np.full(len(chosen), k), np.full(len(chosen), s), where[0] + rows.start, where[1])
            places[k].append(np.column_stack(numbers))
    kept = [np.concatenate(pieces) for pieces in places if pieces]
    return np.concatenate(kept).astype(np.int32) if kept else np.zeros((0, 4), np.int32)


def value_sample(image: Array, mask: Array, left_out: Sequence[int | None] = ()) -> Array:
    """At most ``SAMPLE`` pixels of ``(S, C, H, W)`` that have data, evenly drawn: ``(C, n)`` float32.

    Args:
        image: With NaN where there is no data.
        mask: Class indices ``(S, H, W)``.
        left_out: Classes whose pixels are not taken.
    """

    def where(s: int, rows: slice) -> Array:
        present: Array = ~np.isin(mask[s, rows], [k for k in left_out if k is not None])
        if image.dtype.kind == "f":
            present &= ~np.isnan(image[s, :, rows]).any(axis=0)
        return present

    count = sum(int(where(s, rows).sum()) for s, rows in _parts(mask.shape))
    seen, values = 0, []
    for s, rows in _parts(mask.shape):
        found = np.flatnonzero(where(s, rows))
        chosen = found[_evenly(count, SAMPLE, seen, len(found))]
        seen += len(found)
        places = np.unravel_index(chosen, (rows.stop - rows.start, mask.shape[2]))
        values.append(image[s, :, rows][:, places[0], places[1]])
    return np.concatenate(values, axis=1).astype(np.float32)


def statistics(values: Array, foreground: bool) -> dict[str, Any]:
    """The numbers of ``normalisation: {foreground: true}`` or ``{measured: true}``.

    Args:
        values: Of the training cases, ``(C, n)``.
        foreground: As in nnU-Net, for one channel: values under the masks are clipped to their 0.5th and 99.5th
            percentile, then standardised by their mean and standard deviation; else these of each channel, unclipped.
    """
    values = values.astype(np.float64)
    std = np.maximum(values.std(axis=1), 1e-6)
    if not foreground:
        return {"mean": values.mean(axis=1).tolist(), "std": std.tolist()}
    low, high = np.percentile(values, (0.5, 99.5)).tolist()
    return {"window": [low, high], "mean": float(values.mean()), "std": float(std[0])}

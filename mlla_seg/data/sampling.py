"""Statistics of a data set, from a sample of values and positions of each case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mlla_seg.data.formats.picture import Array

SAMPLE = 10_000
"""Values per channel kept of each case, for statistics of the data set."""
PLACES = 500
"""Pixels per class whose positions are kept of each case, for balanced sampling."""
PART = 2**24
"""Pixels processed at once, so that a scene may exceed memory."""


def _parts(shape: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Yield the slices of ``(S, H, W)``, each in strips of rows, in order."""
    slices, height, width = shape
    rows = max(1, PART // width)
    for s in range(slices):
        for top in range(0, height, rows):
            yield s, slice(top, min(top + rows, height))


def _evenly(count: int, limit: int, first: int, here: int) -> Array:
    """Return which of the next ``here`` items to keep, ``first`` items having come before, of ``count`` in all.

    At most ``limit`` items are kept, spread over all of them: the k-th starts the k-th of ``limit`` equal parts.
    """
    if count <= limit:
        return np.arange(here)
    wanted = np.arange(-(-first * limit // count), -(-(first + here) * limit // count))
    return wanted * count // limit - first


def class_places(mask: Array, voxels: Sequence[int]) -> Array:
    """Sample pixels of every class of ``(S, H, W)``, at most ``PLACES`` each, evenly spread.

    Args:
        mask: Class indices.
        voxels: Number of voxels of each class.

    Returns:
        Rows of class, slice, row and column, int32, ordered by class.
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
    """Sample at most ``SAMPLE`` pixels with data from ``(S, C, H, W)``, evenly spread: ``(C, n)`` float32.

    Args:
        image: Image with NaN where there is no data.
        mask: Class indices ``(S, H, W)``.
        left_out: Classes whose pixels are skipped.
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


def statistics(values: Array) -> tuple[float, float]:
    """Return mean and standard deviation of the values of a channel, the latter above zero."""
    return float(values.mean(dtype=np.float64)), max(float(values.std(dtype=np.float64)), 1e-6)

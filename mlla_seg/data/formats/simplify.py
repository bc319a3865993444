"""Simplification of polygons that keeps shared borders shared, strip by strip."""

from __future__ import annotations

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.polygonise import OUTSIDE, Components, pieces_of, with_points_along
from mlla_seg.errors import InputError


def require_simplification() -> None:
    """Raise if the installed shapely cannot simplify polygons together.

    Raises:
        InputError: Tells what to install.
    """
    import shapely

    if not hasattr(shapely, "coverage_simplify") or shapely.geos_version < (3, 12, 0):
        raise InputError(f"--simplify needs shapely 2.1, found {shapely.__version__}: pip install -U shapely")


def simplified_pieces(
    values: Array, above: Array | None, below: Array | None, top: int, tolerance: float
) -> Components:
    """Return the connected components of a strip with simplified outlines.

    Points go whose triangle with their neighbours is smallest (Visvalingam and Whyatt,
    https://doi.org/10.1179/000870493786962263). Points where three components meet, and those on the borders of
    the strip, stay where they are.

    Args:
        values: ``(H, W)`` of a type that rasterio takes.
        above: The row above the strip ``(W,)``, if any.
        below: The row below the strip ``(W,)``, if any.
        top: First row of the strip in the whole raster.
        tolerance: Side in pixels of a square as large as the largest triangles that disappear.
    """
    import shapely

    pieces = pieces_of(values, top)
    # Neighbours need the same points on their border, also where it is straight for one of them.
    types, points, (rings, parts) = shapely.to_ragged_array(pieces.polygons)
    points, rings = with_points_along(points, rings, longest=1)
    places = np.rint(points).astype(int)
    kept = _turns(values, above, below)[places[:, 1] - top, places[:, 0]]
    before = np.concatenate([[0], np.cumsum(kept)])
    polygons = shapely.from_ragged_array(types, points[kept], (before[rings], parts))
    polygons = shapely.coverage_simplify(polygons, tolerance, simplify_boundary=False)
    return Components(pieces.values, pieces.pixels, polygons)


def _turns(values: Array, above: Array | None, below: Array | None) -> Array:
    """Return for each corner of a strip's pixels, ``(H + 1, W + 1)``, whether a border turns, meets others or ends."""
    around = np.pad(values.astype(np.int64), 1, constant_values=OUTSIDE)
    for row, neighbours in ((0, above), (-1, below)):
        if neighbours is not None:
            around[row, 1:-1] = neighbours
    a, b, c, d = around[:-1, :-1], around[:-1, 1:], around[1:, :-1], around[1:, 1:]
    straight = ((a == b) & (c == d)) | ((a == c) & (b == d))
    for row, neighbours in ((0, above), (-1, below)):
        if neighbours is not None:  # borders of both strips end on the seam
            straight[row] = (a[row] == b[row]) & (c[row] == d[row])
    return ~straight

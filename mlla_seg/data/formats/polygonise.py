"""Connected components of a raster as polygons, found strip by strip, so that memory does not grow with the raster.

A component is a set of pixels of one value that are connected by their sides (4-connected). A strip of rows gives
pieces of components. Pieces on a seam, the border of two strips, wait until the strips below complete their component
and are then dissolved; the polygons are those of the whole raster. Coordinates are columns and rows, 0 at the outer
edge of the first pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Array

PIXELS = 2**20
"""Pixels of a strip; in noise, almost every one is a polygon."""
FEWEST_ROWS = 16
"""Rows of a strip of a very wide raster."""
OUTSIDE = -1
"""Value beyond the borders of a raster."""


@dataclass(frozen=True)
class Components:
    """Components, or pieces of components.

    Args:
        values: Values of their pixels ``(n,)``.
        pixels: Their numbers of pixels ``(n,)``.
        polygons: Their polygons ``(n,)``.
    """

    values: Array
    pixels: Array
    polygons: Array

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, chosen: Array | slice) -> Components:
        return Components(self.values[chosen], self.pixels[chosen], self.polygons[chosen])

    @classmethod
    def none(cls) -> Components:
        """Return no components."""
        return cls(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, object))

    @classmethod
    def together(cls, parts: Sequence[Components]) -> Components:
        """Return the components of several parts."""
        columns = zip(*((part.values, part.pixels, part.polygons) for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))


@dataclass(frozen=True)
class Strip:
    """Rows ``top`` to ``bottom`` of a raster and the pieces of components in them."""

    top: int
    bottom: int
    pieces: Components


@dataclass
class _Waiting:
    """Pieces of an incomplete component. Holes of a piece touch no seam, so they are holes of the component."""

    value: int
    pixels: float = 0
    shells: list[Any] = field(default_factory=list)
    """Pieces without their holes."""
    holes: list[tuple[Array, Array]] = field(default_factory=list)
    """Coordinates of the holes of each piece and where each hole begins and ends in them, smaller than geometries."""

    def add(self, other: _Waiting) -> None:
        self.pixels += other.pixels
        self.shells += other.shells
        self.holes += other.holes


def strip_rows(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the first and end rows of the strips of a raster."""
    height, width = shape
    step = max(FEWEST_ROWS, PIXELS // width)
    return [(top, min(top + step, height)) for top in range(0, height, step)]


def pieces_of(values: Array, top: int = 0, chosen: Array | None = None) -> Components:
    """Return the connected components of some rows.

    Args:
        values: ``(H, W)`` of a type that rasterio takes, such as uint8 or int32.
        top: First of these rows in the whole raster.
        chosen: Pixels ``(H, W)`` whose components are wanted; defaults to all.
    """
    import shapely
    from rasterio.features import shapes
    from rasterio.transform import Affine

    points, rings, parts, found = [], [0], [0], []
    for component, value in shapes(values, mask=chosen, connectivity=4, transform=Affine.translation(0, top)):
        for ring in component["coordinates"]:
            points.append(np.array(ring))
            rings.append(rings[-1] + len(ring))
        parts.append(len(rings) - 1)
        found.append(int(value))
    if not found:
        return Components.none()
    offsets = np.array(rings), np.array(parts)
    polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, np.concatenate(points), offsets)
    return Components(np.array(found), shapely.area(polygons), polygons)


def joined(strips: Iterable[Strip], shape: tuple[int, int], straight_points: bool = False) -> Iterator[Components]:
    """Yield the complete components of a raster from its strips, top to bottom, some for each strip.

    Args:
        strips: Strips without gaps between them.
        shape: Height and width of the raster.
        straight_points: Keep points where the outline is straight, which may be corners of neighbours.
    """
    height, width = shape
    waiting: list[_Waiting] = []
    above = np.full(width, OUTSIDE)  # for each column, which of the waiting lies above the seam
    for strip in strips:
        low, high = _rows_of(strip.pieces.polygons)
        reaching = (high == strip.bottom) & (strip.bottom < height)
        on_seam = reaching | ((low == strip.top) & (strip.top > 0))
        yield strip.pieces[~on_seam]
        pieces = strip.pieces[on_seam]
        below = _along(pieces.polygons, strip.top, width)
        values = np.array([component.value for component in waiting], dtype=np.int64)
        meet = (above != OUTSIDE) & (below != OUTSIDE)
        meet[meet] = values[above[meet]] == pieces.values[below[meet]]
        pairs = np.unique(np.stack([above[meet], len(waiting) + below[meet]], axis=1), axis=0)
        group = _groups(len(waiting) + len(pieces), pairs)
        components: dict[int, _Waiting] = {}
        for k, own in zip(group, chain(waiting, _unpacked(pieces)), strict=True):
            if k in components:
                components[k].add(own)
            else:
                components[k] = own
        still = sorted(set(compress(group[len(waiting) :], reaching[on_seam])))
        for k in sorted(components.keys() - set(still)):
            yield _dissolved(components.pop(k), straight_points)
        bottom = _along(pieces.polygons, strip.bottom, width)
        place = {k: number for number, k in enumerate(still)}
        numbers = np.array([place.get(k, OUTSIDE) for k in group[len(waiting) :]] + [OUTSIDE], dtype=np.int64)
        above = numbers[bottom]  # OUTSIDE is the last of them
        waiting = [components[k] for k in still]


def with_points_along(points: Array, rings: Array, longest: float) -> tuple[Array, Array]:
    """Return rings with evenly spaced points on their longer edges; shapely's ``segmentize`` is slow with many holes.

    Args:
        points: Coordinates ``(n, 2)`` of all rings, each closed.
        rings: Where each ring begins, and the end of the last.
        longest: Length of an edge beyond which it gets points.
    """
    steps = np.ones(len(points), np.int64)
    steps[:-1] = np.maximum(1, np.ceil(np.hypot(*np.diff(points, axis=0).T) / longest))
    steps[rings[1:] - 1] = 1  # there is no edge to the next ring
    places = np.concatenate([[0], np.cumsum(steps)])
    edge = np.repeat(np.arange(len(points)), steps)
    fraction = (np.arange(len(edge)) - places[edge]) / steps[edge]
    ends = points[np.minimum(edge + 1, len(points) - 1)]
    return points[edge] + fraction[:, None] * (ends - points[edge]), places[rings]


def _rows_of(polygons: Array) -> tuple[Array, Array]:
    """Return the lowest and highest rows of polygons."""
    import shapely

    bounds = shapely.bounds(polygons).reshape(-1, 4)
    return bounds[:, 1], bounds[:, 3]


def _along(polygons: Array, row: int, width: int) -> Array:
    """Return for each column which of the polygons has an edge there along a row, or ``OUTSIDE``."""
    import shapely

    found = np.full(width, OUTSIDE)
    points, owner = shapely.get_coordinates(shapely.get_exterior_ring(polygons), return_index=True)
    on_row = points[:, 1] == row
    edges = np.flatnonzero(on_row[:-1] & on_row[1:] & (owner[:-1] == owner[1:]))
    ends = np.sort(np.stack([points[edges, 0], points[edges + 1, 0]]), axis=0).astype(int)
    for k, first, end in zip(owner[edges], *ends, strict=True):
        found[first:end] = k
    return found


def _groups(count: int, pairs: Array) -> list[int]:
    """Return for each of some items the lowest item that it is connected to by pairs."""
    parent = list(range(count))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for a, b in pairs.tolist():
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)
    return [root(k) for k in range(count)]


def _unpacked(pieces: Components) -> Iterator[_Waiting]:
    import shapely

    for value, pixels, polygon in zip(pieces.values, pieces.pixels, pieces.polygons, strict=True):
        points, owner = shapely.get_coordinates(shapely.get_rings(polygon), return_index=True)
        ends = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1, [len(points)]])
        holes = [(points[ends[1] :], ends[1:] - ends[1])] if len(ends) > 2 else []
        yield _Waiting(int(value), float(pixels), [shapely.Polygon(points[: ends[1]])], holes)


def _dissolved(component: _Waiting, straight_points: bool) -> Components:
    """Return a component whose pieces are all there as one polygon."""
    import shapely

    polygon = shapely.union_all(component.shells)
    if not straight_points:
        polygon = _without_straight_points(polygon)
    if component.holes:
        points = np.concatenate([own for own, _ in component.holes])
        lengths = np.concatenate([np.diff(ends) for _, ends in component.holes])
        owner = np.repeat(np.arange(len(lengths)), lengths)
        holes = shapely.linearrings(points, indices=owner)
        shell, *others = shapely.get_rings(polygon)
        polygon = shapely.polygons(shell, holes=np.concatenate([others, holes]))
    return Components(np.array([component.value]), np.array([component.pixels]), np.array([polygon]))


def _without_straight_points(polygon: Any) -> Any:
    """Return a polygon without the points that lie on a straight line between their neighbours."""
    import shapely

    rings = []
    for ring in shapely.get_rings(polygon):
        points = shapely.get_coordinates(ring)[:-1]
        before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
        rings.append(points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]])
    return shapely.Polygon(rings[0], rings[1:])

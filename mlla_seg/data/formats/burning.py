"""Burning of polygons onto the pixels of a raster, window by window, as GDAL's rasterize does for the whole raster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mlla_seg.data.formats.georeference import Ground, coordinates
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.vector_sources import Box, Layer
from mlla_seg.errors import InputError

LONGEST_EDGE = 16
"""Pixels after which an edge gets a point if it is reprojected, as straight lines are curves in another projection."""
POLYGON = 3
"""Type of polygons in shapely; types of collections have higher numbers."""
PIXELS = Ground(None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1, 1))
"""Stands for a raster without georeference, whose polygons are in columns and rows."""
MARGIN = 2
"""Pixels around a window that are burned with it if touched ones count, as GDAL cuts outlines at the border."""
DENSIFY = 21
"""Points along each side of a window whose bounds are reprojected."""


@dataclass(frozen=True)
class Canvas:
    """Pixel grid onto which the polygons of a layer are burned.

    Args:
        ground: Georeference of the raster.
        crs: CRS of the polygons if it is another one, else none.
    """

    ground: Ground
    crs: str | None

    @classmethod
    def of(cls, ground: Ground | None, layer: Layer, image: str) -> Canvas:
        """Return the grid of an image for a layer.

        Raises:
            InputError: The image has no regular grid on the ground, but the polygons do.
        """
        from rasterio.crs import CRS

        if ground is None and layer.crs is None:
            return cls(PIXELS, None)
        if ground is None:
            raise InputError(
                f"{image}: has no geotransform, so the polygons of {layer.path} have no place on it. Georeference it, "
                "or rectify it with gdalwarp if it has control points or RPCs."
            )
        if layer.crs is None or ground.crs is None:
            return cls(ground, None)
        same = CRS.from_user_input(layer.crs) == CRS.from_wkt(ground.crs)
        return cls(ground, None if same else layer.crs)

    def boxes(self, top: int, left: int, height: int, width: int) -> list[Box]:
        """Return the bounds of a window in the coordinates of the polygons; two boxes across the antimeridian."""
        from rasterio.warp import transform_bounds

        columns = np.array([left - 1, left + width + 1] * 2, float)
        rows = np.repeat(np.array([top - 1, top + height + 1], float), 2)
        x, y = coordinates(self.ground, columns, rows)
        low_x, low_y, high_x, high_y = map(float, (x.min(), y.min(), x.max(), y.max()))
        if self.crs is None:
            return [(low_x, low_y, high_x, high_y)]
        box = transform_bounds(self.ground.crs, self.crs, low_x, low_y, high_x, high_y, densify_pts=DENSIFY)
        if not np.isfinite(box).all():  # beyond the reach of a CRS: all polygons are looked at
            return [(-1e300, -1e300, 1e300, 1e300)]
        edge = (box[3] - box[1]) / 100
        if box[0] > box[2]:
            return [
                (box[0] - edge, box[1] - edge, 180, box[3] + edge),
                (-180, box[1] - edge, box[2] + edge, box[3] + edge),
            ]
        return [(box[0] - edge, box[1] - edge, box[2] + edge, box[3] + edge)]

    @cached_property
    def _reach(self) -> tuple[Box, float]:
        """Box beyond which polygons are cut before they are reprojected, and the longest edge, in their coordinates."""
        height, width = self.ground.shape
        boxes = np.array(self.boxes(0, 0, height, width))
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        if len(boxes) > 1:
            return (-180, float(low[1]), 180, float(high[1])), float(high[1] - low[1]) / height * LONGEST_EDGE
        sides = high - low
        x0, y0, x1, y1 = map(float, (*(low - sides), *(high + sides)))
        return (x0, y0, x1, y1), float((sides / (width, height)).min()) * LONGEST_EDGE

    def in_pixels(self, polygons: Array) -> Array:
        """Return polygons in columns and rows, those of another CRS reprojected and cut far outside the raster."""
        import shapely

        if self.crs is not None:
            box, longest = self._reach
            polygons = _cut(polygons, box)
            polygons = shapely.segmentize(polygons, longest)
        return shapely.transform(polygons, self.pixels)

    def pixels(self, points: Array) -> Array:
        """Convert coordinates ``(n, 2)`` to columns and rows by the arithmetic of GDAL, so that ties fall alike."""
        x, y = points.T
        if self.crs is not None:
            from rasterio.warp import transform

            x, y = map(np.asarray, transform(self.crs, self.ground.crs, x, y))
        a, b, c, d, e, f = self.ground.transform
        if b == d == 0:
            return np.stack((-c / a + x * (1 / a), -f / e + y * (1 / e)), axis=1)
        scale = 1 / (a * e - b * d)
        across = (b * f - c * e) * scale + x * (e * scale) + y * (-b * scale)
        down = (-a * f + c * d) * scale + x * (-d * scale) + y * (a * scale)
        return np.stack((across, down), axis=1)


def _cut(polygons: Array, box: Box) -> Array:
    """Return polygons cut to a box, where they exceed it."""
    import shapely

    bounds = shapely.bounds(polygons)
    beyond = (bounds[:, :2] < box[:2]).any(axis=1) | (bounds[:, 2:] > box[2:]).any(axis=1)
    if not beyond.any():
        return polygons
    cut = shapely.clip_by_rect(shapely.make_valid(polygons[beyond]), *box)
    kept = np.array(polygons, object)
    kept[beyond] = cut
    return kept


def exploded(shapes: Array) -> tuple[Array, Array]:
    """Return the parts of geometries, down to those of collections in collections, and the position of their geometry.

    Empty parts are left out; heights and measures are dropped.
    """
    import shapely

    parts, owners = shapely.get_parts(shapely.force_2d(shapes), return_index=True)
    while (shapely.get_type_id(parts) > POLYGON).any():
        parts, inner = shapely.get_parts(parts, return_index=True)
        owners = owners[inner]
    kept = ~shapely.is_empty(parts)
    return parts[kept], owners[kept]


def _polygons(shapes: Array) -> tuple[Array, Array]:
    """Return the polygons among the parts of geometries, and the position of the geometry of each."""
    import shapely

    parts, owners = exploded(shapes)
    area = shapely.get_type_id(parts) == POLYGON
    return parts[area], owners[area]


def burn(
    layer: Layer,
    canvas: Canvas,
    part: Sequence[int],
    values: Any,
    rest: int,
    all_touched: bool = False,
) -> Array:
    """Burn the polygons of a layer onto a window.

    Args:
        layer: The layer.
        canvas: Where its polygons lie.
        part: First row and column, height and width of the window.
        values: Function from attributes to the value of each polygon, -1 for none; higher values overwrite lower ones.
        rest: Value where there is no polygon.
        all_touched: Burn every pixel that a polygon touches, by default those whose centre is inside.

    Returns:
        ``(height, width)`` uint8, as a window of the whole raster; but where an outline touches a pixel in nothing but
        a corner, rounding decides whether GDAL counts it.

    Raises:
        InputError: A polygon has coordinates that are no numbers, or no place in the CRS of the raster.
    """
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    margin = MARGIN if all_touched else 0
    top, left = part[0] - margin, part[1] - margin
    height, width = part[2] + 2 * margin, part[3] + 2 * margin
    shapes, given, seen = [], [], np.zeros(0, np.int64)
    for box in canvas.boxes(top, left, height, width):
        features = layer.read(box)
        polygons, owners = _polygons(features.geometries())
        wanted = np.asarray(values(features.values), np.int64)[owners] if len(owners) else np.zeros(0, np.int64)
        kept = (wanted >= 0) & ~np.isin(features.ids[owners], seen)
        seen = np.union1d(seen, features.ids)
        placed, inner = _polygons(canvas.in_pixels(polygons[kept]))
        _require_placed(layer, placed, features.ids[owners][kept][inner])
        shapes.append(placed)
        given.append(wanted[kept][inner])
    everything, order = np.concatenate(shapes), np.concatenate(given)
    if not len(everything):
        return np.full(part[2:], rest, np.uint8)
    turn = np.argsort(order, kind="stable")
    burned = rasterize(
        zip(everything[turn], order[turn].tolist(), strict=True),
        out_shape=(height, width),
        transform=Affine.translation(left, top),
        fill=rest,
        all_touched=all_touched,
        dtype=np.uint8,
    )
    return burned[margin : margin + part[2], margin : margin + part[3]]


def unplaced(polygons: Array) -> Array:
    """Return which polygons have a coordinate that is NaN or infinite."""
    import shapely

    points, owners = shapely.get_coordinates(polygons, return_index=True)
    wrong = np.zeros(len(polygons), bool)
    wrong[owners[~np.isfinite(points).all(axis=1)]] = True
    return wrong


def _require_placed(layer: Layer, polygons: Array, ids: Array) -> None:
    wrong = unplaced(polygons)
    if wrong.any():
        raise InputError(
            f"{layer.path}: polygon {ids[wrong][0]} has coordinates that are infinite in the CRS of the image. "
            "Correct or remove it."
        )

"""Where the pixels of a map lie on the ground, and how large polygons are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.polygonise import with_points_along

LONGEST_EDGE = 256
"""Pixels after which an edge gets a point, as straight lines are curves in another projection."""
POINTS_AT_ONCE = 2**18
"""Points that are projected in one call."""
SAMPLES = 5
"""Rows and columns of pixels of which the smallest is sought."""


@dataclass(frozen=True)
class PixelGrid:
    """Position of pixels on the ground.

    Args:
        transform: Affine transform from columns and rows to coordinates.
        crs: CRS of these coordinates; None without one, or without a geotransform.
        equal_area: Equal-area projection of the WGS 84 ellipsoid around the map; None if the CRS has no relation to
            longitude and latitude, as that of a building site or of another planet.
        shape: Height and width.
    """

    transform: Any
    crs: Any
    equal_area: str | None
    shape: tuple[int, int]

    @classmethod
    def of(cls, dataset: Any) -> PixelGrid:
        """Return the grid of a raster opened with rasterio."""
        shape, transform = (dataset.height, dataset.width), dataset.transform
        if not dataset.crs or transform.is_identity:
            return cls(transform, None, None, shape)
        centre = np.array([transform * (shape[1] / 2, shape[0] / 2)])
        try:
            ((longitude, latitude),) = _projected(centre, dataset.crs, "EPSG:4326")
        except Exception:  # which it is differs between versions of GDAL
            longitude = latitude = np.inf
        if not np.isfinite([longitude, latitude]).all():
            return cls(transform, dataset.crs, None, shape)
        # Parallels and meridians, the edges of geographic pixels, are straight in the cylindrical projection.
        around = "cea" if dataset.crs.is_geographic else f"laea +lat_0={latitude:.9f} +lon_0={longitude:.9f}"
        return cls(transform, dataset.crs, f"+proj={around} +datum=WGS84", shape)

    @property
    def area_name(self) -> str:
        """Name of the attribute for areas, with their unit."""
        return "area_px" if self.equal_area is None else "area_m2"

    def placed(self, polygons: Array) -> Array:
        """Return polygons in columns and rows in the coordinates of the CRS."""
        import shapely

        return shapely.transform(polygons, self._coordinates)

    def areas(self, polygons: Array) -> Array:
        """Return areas of polygons in columns and rows.

        They are in m2 on the ellipsoid, NaN for polygons beyond the reach of the CRS, or in pixels if no CRS is known.
        """
        import shapely

        if self.equal_area is None or not len(polygons):
            return shapely.area(polygons)
        _, points, (rings, parts) = shapely.to_ragged_array(polygons)
        points, rings = with_points_along(points, rings, LONGEST_EDGE)
        points = self._coordinates(points)
        if self.crs.is_geographic:  # areas are the same around longitude 0, far from the antimeridian
            points[:, 0] -= (self.transform * (self.shape[1] / 2, self.shape[0] / 2))[0]
        x, y = _projected(points, self.crs, self.equal_area).T.copy()
        x[~np.isfinite(x)] = np.nan
        starts, lengths = rings[:-1], np.diff(rings)
        x, y = x - np.repeat(x[starts], lengths), y - np.repeat(y[starts], lengths)  # short, so that products are exact
        sizes = np.abs(np.add.reduceat(x[:-1] * y[1:] - x[1:] * y[:-1], starts)) / 2
        # A polygon is its first ring less the others.
        return 2 * sizes[parts[:-1]] - np.add.reduceat(sizes, parts[:-1])

    def smallest_pixel(self) -> float:
        """Return the smallest area of some pixels all over the map, in the unit of :meth:`areas`."""
        import shapely

        rows, columns = np.meshgrid(*(np.linspace(0, n - 1, min(n, SAMPLES)) // 1 for n in self.shape))
        pixels = shapely.box(columns.ravel(), rows.ravel(), columns.ravel() + 1, rows.ravel() + 1)
        return float(np.nanmin(self.areas(pixels)))

    def _coordinates(self, points: Array) -> Array:
        columns, rows = points.T
        return np.stack(self.transform * (columns, rows), axis=1)


def _projected(points: Array, source: Any, target: str) -> Array:
    """Convert coordinates ``(n, 2)`` to another CRS; infinite where it has none."""
    from rasterio.warp import transform

    parts = [points[k : k + POINTS_AT_ONCE] for k in range(0, len(points), POINTS_AT_ONCE)]
    return np.concatenate([np.stack(transform(source, target, *part.T), axis=1) for part in parts])

"""Pixel grids of open rasters: where they lie, which is the finest, and warping from one to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.georeference import Ground, coordinates, overlap
from mlla_seg.data.formats.locations import Location
from mlla_seg.errors import InputError

ALIKE = 1.01
"""Ratio of the areas of pixels up to which they are of the same size."""
BENT = 0.5
"""Pixels by which control points may miss the best affine transform; beyond, only gdalwarp can rectify the image."""


def place_of(dataset: Any) -> dict[str, Any]:
    """Return the arguments with which rasterio writes a raster at the same place: CRS, transform or GCPs, and RPCs."""
    points, crs = dataset.gcps
    place = {"gcps": points, "crs": crs} if points else {"transform": dataset.transform, "crs": dataset.crs}
    return place if dataset.rpcs is None else {**place, "rpcs": dataset.rpcs}


def ground_of(dataset: Any) -> Ground | None:
    """Return the georeference of an open file, if it has one; that of ground control points is fitted to them."""
    from rasterio.transform import from_gcps

    points, crs = dataset.gcps
    if not dataset.transform.is_identity:
        return _ground(dataset.crs, dataset.transform, dataset)
    return _ground(crs, from_gcps(points), dataset) if len(points) > 2 else None


def _ground(crs: Any, transform: Any, dataset: Any) -> Ground:
    return Ground(crs.to_wkt() if crs else None, tuple(transform)[:6], (dataset.height, dataset.width))


def _is_placed(dataset: Any) -> bool:
    return not dataset.transform.is_identity or bool(dataset.gcps[0]) or dataset.rpcs is not None


def flat_ground(dataset: Any) -> Ground | None:
    """Return the georeference of a file whose pixels form a regular grid on the ground, with GCPs nearly so."""
    ground = ground_of(dataset)
    points = dataset.gcps[0] if dataset.transform.is_identity else ()
    if ground is None or not points:
        return ground
    rows, columns, x, y = np.array([(point.row, point.col, point.x, point.y) for point in points]).T
    a, b, _, d, e, _ = ground.transform
    missed = np.subtract(coordinates(ground, columns, rows), (x, y))
    return ground if np.abs(np.linalg.solve([[a, b], [d, e]], missed)).max() < BENT else None


def same_grid(first: Any, other: Any) -> bool:
    """Return whether pixels coincide up to a tenth of a pixel, as far as both files are georeferenced."""
    if (other.height, other.width) != (first.height, first.width):
        return False
    if not (_is_placed(first) and _is_placed(other)) or _same_place(first, other):
        return True
    here, there = flat_ground(first), flat_ground(other)
    crs, other_crs = (dataset.gcps[1] if dataset.transform.is_identity else dataset.crs for dataset in (first, other))
    if here is None or there is None or (crs and other_crs and crs != other_crs):
        return False
    columns, rows = np.array([0, first.width, 0, first.width]), np.array([0, 0, first.height, first.height])
    apart = np.subtract(coordinates(there, columns, rows), coordinates(here, columns, rows))
    a, b, _, d, e, _ = here.transform
    return bool(np.abs(np.linalg.solve([[a, b], [d, e]], apart)).max() < 0.1)


def _same_place(first: Any, other: Any) -> bool:
    """Return whether two files have the same control points, or none and the same RPCs."""
    if not (first.transform.is_identity and other.transform.is_identity):
        return False
    points, others = ([(p.row, p.col, p.x, p.y) for p in dataset.gcps[0]] for dataset in (first, other))
    if points or others:
        return len(points) == len(others) and np.allclose(points, others, 1e-12) and first.gcps[1] == other.gcps[1]
    return bool(first.rpcs.to_gdal() == other.rpcs.to_gdal())


def finest(datasets: Sequence[Any]) -> int:
    """Return the position of the file with the smallest pixels on the ground, the first of files that are alike."""
    if len(datasets) == 1 or any(dataset.transform.is_identity for dataset in datasets):
        return 0
    areas = [_pixel_area(dataset, datasets[0].crs) for dataset in datasets]
    return next(k for k, area in enumerate(areas) if area <= ALIKE * min(areas))


def _pixel_area(dataset: Any, crs: Any) -> float:
    """Return the area of the middle pixel in square units of a CRS."""
    from rasterio.warp import transform

    column, row = dataset.width / 2, dataset.height / 2
    ground = _ground(None, dataset.transform, dataset)
    x, y = coordinates(ground, np.array([column, column + 1, column]), np.array([row, row, row + 1]))
    if crs and dataset.crs and dataset.crs != crs:
        x, y = map(np.array, transform(dataset.crs, crs, x, y))
    return float(abs((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])))


def on_grid(path: Location, dataset: Any, first: Any, nearest: bool, **nodata: Any) -> tuple[Any, float]:
    """Warp a dataset to the grid of another.

    Args:
        path: File of the dataset, for messages.
        dataset: The dataset.
        first: Dataset with the grid.
        nearest: Take the nearest value, for labels and colour tables, instead of interpolating.
        nodata: Options of GDAL about values without data.

    Returns:
        Warped dataset, float32, NaN where it has no data; and the fraction of the grid's pixels that it covers.

    Raises:
        InputError: One of the two has no regular grid on the ground, or they do not touch.
    """
    from rasterio.enums import Resampling
    from rasterio.transform import Affine
    from rasterio.vrt import WarpedVRT

    name = Path(str(first.name)).name
    grid, own = flat_ground(first), flat_ground(dataset)
    if grid is None or own is None:
        which, by = (name, first) if grid is None else (path, dataset)
        if _is_placed(by):
            what = "bent control points (GCPs)" if by.gcps[0] else "RPCs"
            raise InputError(
                f"{path}: is on another grid than {name}, and cannot be warped to it, as {which} is placed by {what}. "
                "Rectify it with gdalwarp first."
            )
        raise InputError(
            f"{path}: {dataset.height} x {dataset.width} pixels, but {name} has {first.height} x "
            f"{first.width}. Files of different sizes must both be georeferenced."
        )
    crs = grid.crs or own.crs  # if neither has one, coordinates do not change and any will do
    grid, own = Ground(crs, grid.transform, grid.shape), Ground(own.crs or crs, own.transform, own.shape)
    share = overlap(own, grid)
    if share == 0:
        raise InputError(
            f"{path}: covers nothing of {name}: it lies at {extent_of(own)}, the other at {extent_of(grid)}. "
            "Pair the right files, or correct the CRS or the position of one."
        )
    target = {"crs": crs or "EPSG:3857", "transform": Affine(*grid.transform), "height": first.height}
    target |= {"width": first.width, "src_crs": own.crs or crs or "EPSG:3857", "src_transform": Affine(*own.transform)}
    how = Resampling.nearest if nearest else Resampling.bilinear
    return WarpedVRT(dataset, resampling=how, dtype="float32", nodata=np.nan, **target, **nodata), share


def extent_of(ground: Ground) -> str:
    """Return the lowest and highest coordinates of a raster and its CRS, in words."""
    height, width = ground.shape
    x, y = coordinates(ground, np.array([0, width, 0, width]), np.array([0, 0, height, height]))
    return f"x {x.min():.9g} to {x.max():.9g}, y {y.min():.9g} to {y.max():.9g} ({_crs_name(ground)})"


def _crs_name(ground: Ground) -> str:
    from rasterio.crs import CRS

    if ground.crs is None:
        return "no CRS"
    name = str(CRS.from_wkt(ground.crs).to_string())
    return name if name.startswith("EPSG") else name.split('"')[1] if '"' in name else name


def pixel_size(ground: Ground) -> str:
    """Return the size of pixels in words, such as ``10 x 10 m``."""
    from rasterio.crs import CRS

    a, b, _, d, e, _ = ground.transform
    crs = CRS.from_wkt(ground.crs) if ground.crs else None
    unit = "units" if crs is None else "degrees" if crs.is_geographic else crs.linear_units.replace("metre", "m")
    return f"{float(np.hypot(a, d)):.6g} x {float(np.hypot(b, e)):.6g} {unit}"

"""Segmentation maps as polygons, in vector layers for GIS."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.data.formats.locations import Location
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.pixel_grid import PixelGrid
from mlla_seg.data.formats.polygonise import Components, Strip, joined, pieces_of, strip_rows
from mlla_seg.data.formats.simplify import require_simplification, simplified_pieces
from mlla_seg.data.formats.vector_files import require_vector_format, vector_layer
from mlla_seg.disk_space import reserved_array
from mlla_seg.errors import InputError
from mlla_seg.progress import note_own, progress

BATCH = 2**14
"""Polygons that are written at once."""
POINTS = 2**20
"""Points of polygons after which they are written, even if they are fewer."""

Rows = Callable[[int, int], Array]
"""Returns the values of the rows from a first to an end row."""


@dataclass(frozen=True)
class PolygonOptions:
    """How a map becomes polygons.

    Args:
        format: A name in ``vector_files.FORMATS``.
        min_area_m2: Smaller components join their largest neighbour.
        simplify_m: Tolerance of a simplification that keeps shared borders shared.
    """

    format: str
    min_area_m2: float | None = None
    simplify_m: float | None = None

    def __post_init__(self) -> None:
        require_vector_format(self.format)
        for name, value in (("min_area_m2", self.min_area_m2), ("simplify", self.simplify_m)):
            if value is not None and not 0 < value < np.inf:
                raise InputError(f"--{name} must be more than 0, got {value}.")
        if self.simplify_m is not None:
            require_simplification()

    def require_place(self, dataset: Any, source: Location) -> None:
        """Raise if the polygons of a scene cannot be written, before its first window.

        Raises:
            InputError: The scene's georeference does not suffice for GeoJSON, or for sizes in metres.
        """
        grid = PixelGrid.of(dataset)
        if grid.equal_area is not None:
            return
        lacks = f"{source}: {_lack(dataset)}"
        if self.format == "geojson":
            raise InputError(
                f"{lacks}, but GeoJSON is in longitude and latitude. Use --polygons gpkg, or {_cure(dataset)}."
            )
        for name, value in (("min_area_m2", self.min_area_m2), ("simplify", self.simplify_m)):
            if value is not None:
                raise InputError(f"{lacks}, so --{name} in metres has no meaning. Leave it out, or {_cure(dataset)}.")


def _lack(dataset: Any) -> str:
    if dataset.transform.is_identity:
        return "has GCPs or RPCs in place of a geotransform" if _has_points(dataset) else "has no geotransform"
    return "its CRS has no relation to longitude and latitude" if dataset.crs else "has no CRS"


def _cure(dataset: Any) -> str:
    if dataset.transform.is_identity and _has_points(dataset):
        return "rectify the scene with gdalwarp"
    return "give the scene a CRS and a geotransform (gdal_edit.py -a_srs, -a_ullr)"


def _has_points(dataset: Any) -> bool:
    return bool(dataset.gcps[0]) or dataset.rpcs is not None


def write_polygons(
    path: Path, map_path: Path, classes: Sequence[ClassInfo], background: int | None, options: PolygonOptions
) -> int:
    """Write the components of a segmentation map as polygons, with a progress bar, and return their number.

    Attributes are ``class``, ``class_id`` (the value in the map) and ``area_m2`` on the ellipsoid, or ``area_px`` in
    pixels for a map without a usable CRS, which is said.

    Args:
        path: Vector file, written in place, so pass a temporary name in a folder for other temporary files.
        map_path: Segmentation map written by ``write_map``.
        classes: Names, and ids where they are not the positions.
        background: Index of the class without polygons, if any.
        options: How.
    """
    names = {entry.id: entry.name for k, entry in enumerate(classes) if k != background}
    with open_rasters([map_path]) as raster, TemporaryDirectory(dir=path.parent) as folder:
        dataset = raster.datasets[0]
        grid = PixelGrid.of(dataset)
        if grid.equal_area is None:
            where = "are in columns and rows and " if dataset.transform.is_identity else ""
            note_own(f"note: {map_path.name}: {_lack(dataset)}; polygons {where}have area_px, in pixels, not area_m2.")
        labels, fewest = _rows(dataset), 1
        if options.min_area_m2 is not None:
            fewest = math.ceil(options.min_area_m2 / grid.smallest_pixel())
            labels = _sieved(dataset, fewest, Path(folder))
            changed = sum(int((labels(*rows) != _rows(dataset)(*rows)).sum()) for rows in strip_rows(grid.shape))
            note_own(
                f"note: {path.name}: {changed} of {grid.shape[0] * grid.shape[1]} pixels, in components under "
                f"{options.min_area_m2:g} m2 ({fewest} pixels), joined their neighbours; {map_path.name} keeps them."
            )
        tolerance = options.simplify_m / grid.smallest_pixel() ** 0.5 if options.simplify_m else None
        strips = _strips(labels, grid.shape, sorted(names), tolerance, path.name)
        components = joined(strips, grid.shape, straight_points=tolerance is not None)
        written = small = unknown = 0
        with vector_layer(path, options.format, grid.crs.to_wkt() if grid.crs else None) as write:
            for batch in _batches(components):
                kept = batch[batch.pixels >= fewest]
                small += len(batch) - len(kept)
                written += len(kept)
                areas = grid.areas(kept.polygons)
                unknown += int(np.isnan(areas).sum())
                write(grid.placed(kept.polygons), _fields(kept, names, grid.area_name, areas))
    if small:
        note_own(f"note: {path.name}: leaves out {small} of these components, which have no larger neighbour.")
    if unknown:
        note_own(f"note: {path.name}: area_m2 of {unknown} polygons is unknown, as their CRS does not reach so far.")
    return written


def _rows(dataset: Any) -> Rows:
    """Return a function that reads rows of a map."""
    from rasterio.windows import Window

    return lambda top, bottom: dataset.read(1, window=Window(0, top, dataset.width, bottom - top))


def _sieved(dataset: Any, fewest: int, folder: Path) -> Rows:
    """Return a map in which components of fewer pixels have the value of their largest neighbour, if that is larger.

    Both arrays of the size of the map are in files, so that they need not fit into memory.
    """
    from rasterio import band
    from rasterio.features import sieve

    present, labels = (
        reserved_array(folder / f"{name}.npy", dtype, dataset.shape)
        for name, dtype in (("present", np.uint8), ("labels", dataset.dtypes[0]))
    )
    for top, bottom in strip_rows(dataset.shape):
        present[top:bottom] = _rows(dataset)(top, bottom) != dataset.nodata
    sieve(band(dataset, 1), fewest, out=labels, mask=present, connectivity=4)
    return lambda top, bottom: np.array(labels[top:bottom])


def _strips(
    labels: Rows, shape: tuple[int, int], wanted: Sequence[int], tolerance: float | None, title: str
) -> Iterator[Strip]:
    """Yield the strips of a map with the pieces of components with wanted values."""
    height, _ = shape
    strips = strip_rows(shape)
    with progress(height, title, "row") as bar:
        for top, bottom in strips:
            values = labels(top, bottom)
            if tolerance is None:
                pieces = pieces_of(values, top, np.isin(values, wanted))
            else:  # of all values, as they share borders
                above = labels(top - 1, top)[0] if top > 0 else None
                below = labels(bottom, bottom + 1)[0] if bottom < height else None
                pieces = simplified_pieces(values, above, below, top, tolerance)
                pieces = pieces[np.isin(pieces.values, wanted)]
            yield Strip(top, bottom, pieces)
            bar.update(bottom - top)


def _batches(components: Iterable[Components]) -> Iterator[Components]:
    """Yield components in batches, a complex one at the end of its batch; the last may be empty."""
    import shapely

    held: list[Components] = []
    polygons = points = 0
    for part in components:
        for first in range(0, len(part), BATCH):
            held.append(part[first : first + BATCH])
            polygons += len(held[-1])
            points += int(shapely.get_num_coordinates(held[-1].polygons).sum())
            if polygons >= BATCH or points >= POINTS:
                yield Components.together(held)
                held, polygons, points = [], 0, 0
    yield Components.together([*held, Components.none()])


def _fields(components: Components, names: dict[int, str], area_name: str, areas: Array) -> dict[str, Array]:
    """Return the attributes of components."""
    return {
        "class": np.array([names[value] for value in components.values], dtype=object),
        "class_id": components.values.astype(np.int32),
        area_name: areas,
    }

"""What is written beside the masks on request: volumes or areas of all cases in a table, and a picture of each case.

Both are made from the finished mask files, also from those that an earlier run has made. This module does not import
torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.bands import shown_channels
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES, Raster, open_rasters
from mlla_seg.data.formats.locations import Location
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.pixel_grid import PixelGrid
from mlla_seg.data.formats.registry import read_channels, read_mask, suffix_of
from mlla_seg.errors import InputError
from mlla_seg.progress import note, progress, say

TABLE = "statistics.csv"
HEAD = b"mask,unit,"
"""First bytes of the table."""
TILE = (16, 256)
"""Rows and columns of the tiles of a map within which all pixels count with the same area on the ground."""
SIDE = 1024
"""Longest side of the picture of a scene in pixels."""
STRIP = 2**22
"""Pixels of a scene read at once."""
UNITS = {"ml": "volumes in ml", "m2": "areas in m2"}


@dataclass(frozen=True)
class Summaries:
    """What to write beside the masks.

    Args:
        statistics: A table with the volume or area of each class and region in each case.
        preview: A picture of each case with its mask.
    """

    statistics: bool = False
    preview: bool = False

    def write(self, spec: DataSpec, pairs: Sequence[tuple[tuple[Location, ...], Path]], folder: Path) -> list[str]:
        """Write the summaries of images with their masks, and return a line for each that could not be made."""
        rows: list[dict[str, Any]] = []
        problems = []
        readable = [(files, mask) for files, mask in pairs if suffix_of(mask) != ".dcm"]
        if left := len(pairs) - len(readable):
            note(f"note: {left} DICOM segmentations have no statistics or preview; write another --format for them.")
        with progress(len(readable), "Summarising", "image", leave=False) as bar:
            for files, mask in readable:
                name = mask.relative_to(folder).as_posix()
                try:
                    if self.statistics:
                        unit, sizes = sizes_in(mask, spec)
                        rows.append({"mask": name, "unit": unit, **_named(sizes, spec)})
                    if self.preview:
                        draw_preview(files, mask, spec)
                except Exception as error:  # such as those of the libraries that read and draw
                    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
                    problems.append(f"{mask}: has no summary ({kind}{' '.join(str(error).split())}).")
                bar.update()
        if rows:
            _write_table(rows, folder)
        if self.preview and len(readable) > len(problems):
            say(f"Previews: {preview_path(readable[0][1])}{', ...' if len(readable) > 1 else ''}")
        return problems


def preview_path(mask: Path) -> Path:
    """Return the file for the picture of a mask."""
    return mask.with_name(mask.name[: len(mask.name) - len(suffix_of(mask))] + ".preview.png")


def is_statistics(path: Path) -> bool:
    """Return whether a file is a table that :class:`Summaries` has written."""
    with path.open("rb") as file:
        return file.read(len(HEAD)) == HEAD


def _write_table(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    from mlla_seg.evaluation.tables import write_csv

    write_csv(folder / TABLE, rows)
    say(f"Statistics: {folder / TABLE}")
    unknown = [row for row in rows if row["unit"] not in UNITS]
    if unknown:
        note(
            f"note: {len(unknown)} of {len(rows)} masks, such as {unknown[0]['mask']}, have no known size of pixels or "
            f"voxels; {TABLE} counts their {unknown[0]['unit']}."
        )


def _named(sizes: Array, spec: DataSpec) -> dict[str, float]:
    """Return sizes of classes, without the background, and of regions by name."""
    named = {entry.name: sizes[k] for k, entry in enumerate(spec.classes) if k != spec.background}
    named |= {region.name: sizes[list(region.classes)].sum() for region in spec.regions}
    return {name: float(f"{size:.6g}") for name, size in named.items()}


def sizes_in(mask: Path, spec: DataSpec) -> tuple[str, Array]:
    """Return the unit of sizes and the size of each class in a mask: volumes in ml, areas in m2 on the ellipsoid.

    Where the size of a voxel or pixel is not known, these are numbers of ``voxels`` or ``pixels``.
    """
    if suffix_of(mask) in RASTER_SUFFIXES:
        return _areas(mask, spec)
    picture = read_mask(mask, spec.plane)
    counts = np.bincount(_indices(picture.array, spec).ravel(), minlength=256)[: len(spec.classes)].astype(float)
    if picture.affine is not None:
        return "ml", counts * abs(np.linalg.det(picture.affine[:3, :3])) / 1000
    if picture.spacing_mm is not None:
        return "ml", counts * np.prod(picture.spacing_mm) / 1000
    return "pixels" if suffix_of(mask) == ".png" else "voxels", counts


def _areas(mask: Path, spec: DataSpec) -> tuple[str, Array]:
    """Return the areas of the classes of a map, read by rows of tiles."""
    import shapely

    sizes = np.zeros(len(spec.classes))
    with open_rasters([mask], labels=True) as raster:
        height, width = raster.shape
        grid = PixelGrid.of(raster.grid)
        lefts = np.arange(0, width, TILE[1])
        widths = np.minimum(lefts + TILE[1], width) - lefts
        column = np.arange(width) // TILE[1]
        for top in range(0, height, TILE[0]):
            rows = min(TILE[0], height - top)
            values = _indices(raster.read(top, 0, rows, width, raw=True)[0], spec).astype(np.int64)
            counts = np.bincount((values + 256 * column).ravel(), minlength=256 * len(lefts)).reshape(-1, 256)
            tiles = shapely.box(lefts, top, lefts + widths, top + rows)
            pixel = grid.areas(tiles) / (widths * rows)
            sizes += (counts[:, : len(sizes)] * np.nan_to_num(pixel)[:, None]).sum(axis=0)
            if np.isnan(pixel).any():
                raise InputError(f"{mask}: its CRS does not reach so far, so areas are unknown.")
    return ("m2" if grid.equal_area else "pixels"), sizes


def _indices(values: Array, spec: DataSpec) -> Array:
    """Return class indices of stored values, 255 where a value is none."""
    found = np.full(values.shape, 255, np.uint8)
    for k, entry in enumerate(spec.classes):
        found[values == entry.id] = k
    return found


def draw_preview(files: tuple[Location, ...], mask: Path, spec: DataSpec) -> None:
    """Draw an image beside the same with its mask: a scene made smaller, of a volume the slice with most foreground."""
    from mlla_seg.evaluation.plots import plot_overlay

    aspect, title = 1.0, mask.name
    if suffix_of(mask) in RASTER_SUFFIXES:
        image, labels = _overview(files, mask, spec)
    else:
        own = cast(tuple[Path, ...], files)  # only scenes are at other places
        picture = read_channels(own, spec.plane, spec.array_units, spec.wanted)
        found = read_mask(mask, picture.axes or spec.plane).array[:, 0]
        ignored = [255] if spec.background is None else [255, spec.background]
        chosen = int(np.argmax([(~np.isin(_indices(part, spec), ignored)).sum() for part in found]))
        image, labels = picture.array[chosen].astype(np.float32), _indices(found[chosen], spec)
        if picture.spacing_mm is not None:
            aspect = picture.spacing_mm[1] / picture.spacing_mm[2]
        if len(found) > 1:
            title += f", slice {chosen + 1} of {len(found)}"
    image = image[shown_channels(spec.channels)]
    plot_overlay(
        _without_gaps(image),
        {"prediction": labels},
        spec.classes,
        preview_path(mask),
        title,
        _window(image, spec),
        aspect,
        spec.background,
    )


def _overview(files: Sequence[Location], mask: Path, spec: DataSpec) -> tuple[Array, Array]:
    """Return every n-th pixel of a scene ``(C, h, w)`` and of its map ``(h, w)``, read in strips."""
    with open_rasters(files, spec.wanted) as raster, open_rasters([mask], labels=True) as labels:
        step = -(-max(raster.shape) // SIDE)
        image = _every(raster, step, seen=True)
        found = [_indices(part[0], spec) for part in _every(labels, step, seen=False)]
    return np.concatenate(image, axis=1), np.concatenate(found)


def _every(raster: Raster, step: int, seen: bool) -> list[Array]:
    height, width = raster.shape
    rows = max(1, STRIP // width // step) * step
    parts = []
    for top in range(0, height, rows):
        part = (top, 0, min(rows, height - top), width)
        read = raster.read_seen(*part) if seen else raster.read(*part, raw=True)
        parts.append(np.ascontiguousarray(read[:, ::step, ::step]))
    return parts


def _window(image: Array, spec: DataSpec) -> tuple[float, float]:
    """Return the intensity window of the training, or the 1st and 99th percentile of the values with data."""
    window: Any = spec.normalisation.window
    if window is not None and np.ndim(window) == 1 and None not in window:
        return float(window[0]), float(window[1])
    known = image[np.isfinite(image)]
    low, high = np.percentile(known, (1, 99)) if known.size else (0, 1)
    return float(low), float(high)


def _without_gaps(image: Array) -> Array:
    """Return an image that is black where it has no data."""
    known = image[np.isfinite(image)]
    return np.where(np.isfinite(image), image, known.min() if known.size else 0).astype(np.float32)

"""Georeferenced rasters through rasterio, read by windows, so that scenes may exceed memory.

A raster has bands, rows and columns; a coordinate reference system (CRS) and a geotransform, or ground control points
(GCPs), or polynomials (RPCs) locate its pixels on the ground. Pixels without data are those with the file's nodata
value (see ``gaps.py``), outside its mask or alpha band, or not finite. They are read as NaN, which ``data/reading.py``
turns into the ignore index of masks.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.arrays import COLOUR_KEYS, MASK_KEYS
from mlla_seg.data.formats.bands import (
    Band,
    Order,
    Wanted,
    alpha_note,
    band_order,
    bands_of,
    colour_order,
    scale_note,
    simple,
)
from mlla_seg.data.formats.claims import ANY, require_room
from mlla_seg.data.formats.drivers import OFFLINE, driver_of
from mlla_seg.data.formats.gaps import Gaps, Tag, mark_gaps
from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.formats.locations import Location, Remote
from mlla_seg.data.formats.picture import Array, Picture
from mlla_seg.data.formats.raster_colours import alpha_band, coloured, is_colour_image, palette_of
from mlla_seg.data.formats.raster_grids import finest, ground_of, on_grid, pixel_size, place_of, same_grid
from mlla_seg.data.formats.tiff_orientation import unturned_note
from mlla_seg.data.formats.unreadable import unreadable
from mlla_seg.data.formats.vrt_sources import require_local
from mlla_seg.errors import InputError

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2")
KEPT = {"uint8", "uint16", "int16"}
"""Data types that are kept in the store."""
COVERED = 0.995
"""Fraction of an image above which a file on another grid covers it, but for rounding."""
CACHE_MB = 128
"""Size of GDAL's block cache, by default a twentieth of the machine's memory."""


@dataclass(frozen=True)
class Raster:
    """Bands of one or more open files, on one grid."""

    datasets: Sequence[Any]
    paths: Sequence[Location]
    grid: Any
    """Open file whose pixel grid is used."""
    tags: Sequence[Tag]
    """Value without data of each stored band."""
    bands: Sequence[Band]
    """What is known of each band."""
    warped: Mapping[str, float] = field(default_factory=dict)
    """Files on another grid, which are warped while they are read, and the fraction of the grid that each covers."""
    alpha: int | None = None
    """Position of a stored alpha band that only marks where there is data and is not counted, if there is one."""
    palette: Array | None = None
    """Colour table ``(n, 4)`` that turns the only stored band into red, green and blue."""
    nodata: tuple[float, ...] = ()
    """Values that the files tag as without data."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the files are read."""
    order: Order | None = None
    """Which bands are the channels that a network sees, if it was said what it wants."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.grid.height, self.grid.width

    @property
    def count(self) -> int:
        """Number of bands of all files together."""
        return len(self.bands)

    @property
    def ground(self) -> Ground | None:
        """Georeference, if there is one."""
        return ground_of(self.grid)

    @property
    def place(self) -> dict[str, Any]:
        """Arguments with which rasterio writes a raster at the same place."""
        return place_of(self.grid)

    @property
    def warping(self) -> str:
        """Note on the files that are warped to another grid; empty if there are none."""
        ground = self.ground
        if not self.warped or ground is None:
            return ""
        partly = [f" (which covers {share:.0%})" if share < COVERED else "" for share in self.warped.values()]
        files = ", ".join(f"{name}{part}" for name, part in zip(self.warped, partly, strict=True))
        grid = Path(self.grid.name).name
        return f"{len(self.warped)} of its files are warped to the pixels of {grid}, {pixel_size(ground)}: {files}"

    @property
    def told(self) -> dict[Hashable, str]:
        """All notes for the user on how a scene is read, each with what is the same for scenes that are read alike."""
        found: dict[Hashable, str] = {note: note for note in self.notes}
        if self.order:
            found[self.order.positions, self.order.by_name] = self.order.described
        if self.warping:
            found["warped"] = self.warping
        return found

    @property
    def chosen(self) -> tuple[str, ...]:
        """Note on bands that were chosen by name, if their order in the file is another than that of the channels."""
        if self.order is None or not self.order.by_name or self.order.changes_nothing(self.count):
            return ()
        return (self.order.described,)

    @property
    def dtype(self) -> Any:
        """Type that holds every band: a small integer type if none has gaps, else float32 with NaN for gaps."""
        found = {dtype for dataset in self.datasets for dtype in dataset.dtypes}
        gaps = (
            self.alpha is not None
            or any(tag.value is not None for tag in self.tags)
            or any(map(_has_mask, self.datasets))
        )
        gaps |= self.palette is not None and bool((self.palette[:, 3] == 0).any())
        return np.dtype(found.pop()) if len(found) == 1 and found <= KEPT and not gaps else np.dtype(np.float32)

    def read(self, top: int, left: int, height: int, width: int, raw: bool = False) -> Array:
        """Read a part of the raster.

        Args:
            top: First row.
            left: First column.
            height: Number of rows.
            width: Number of columns.
            raw: Keep nodata values, which may stand for a class in masks; where a mask or alpha band says that there is
                no data, there is none.

        Returns:
            ``(C, height, width)`` float32, NaN where a band has no data.

        Raises:
            InputError: A block of a file is damaged.
        """
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        require_room(self.paths[0], (self.count, height, width), 4)
        part = Window(left, top, width, height)
        stored, hidden = [], []
        for path, dataset in zip(self.paths, self.datasets, strict=True):
            try:
                own = dataset.read(window=part).astype(np.float32)
                masked = _has_mask(dataset)
                hidden.append(dataset.read_masks(1, window=part) == 0 if masked else np.zeros((height, width), bool))
            except RasterioError as error:
                raise _unreadable(path, error) from error
            hidden[-1] = np.broadcast_to(hidden[-1], own.shape)
            stored.append(own)
        bands, without = np.concatenate(stored), np.concatenate(hidden)
        for band, tag in zip(bands, self.tags, strict=True):
            if tag.warped and not raw:  # whether it is a gap depends on the other bands
                band[np.isnan(band)] = tag.value
        tags = [*self.tags]
        if self.alpha is not None:
            without = np.delete(without, self.alpha, axis=0) | (bands[self.alpha] == 0)
            bands = np.delete(bands, self.alpha, axis=0)
            del tags[self.alpha]
        mark_gaps(bands, [Tag()] * len(bands) if raw else tags)
        bands[without] = np.nan
        return bands if self.palette is None else coloured(bands[0], self.palette, raw)

    def read_seen(self, top: int, left: int, height: int, width: int, *, raw: bool = False) -> Array:
        """Read the channels that the network sees, or the colours of a mask, in their order; see :meth:`read`."""
        bands = self.read(top, left, height, width, raw)
        return bands if self.order is None or self.order.changes_nothing(len(bands)) else bands[[*self.order.positions]]


@contextmanager
def open_rasters(
    paths: Sequence[Location],
    wanted: Wanted | None = None,
    like: Raster | None = None,
    labels: bool = False,
    colours: bool = False,
) -> Iterator[Raster]:
    """Open files as one raster on the grid of the finest, of the band that is wanted as such, or of another raster.

    A file with another position, CRS or pixel size is warped while it is read: labels with nearest-neighbour,
    everything else with bilinear interpolation. Files without a georeference must have the same height and width.

    Args:
        paths: Places to open.
        wanted: What a network expects: its channels are found among the bands, one band more than it expects is not
            counted if it is an alpha band, and indices of a colour table become colours if it expects three.
        like: Raster whose grid is used.
        labels: Whether values stand for classes.
        colours: Turn indices of a colour table into red, green and blue.

    Raises:
        InputError: rasterio is not installed, a file is not a raster or holds several, or the files do not match.
    """
    rasterio = import_rasterio(paths[0])
    gaps = wanted.gaps if wanted else Gaps()
    counts = wanted.counts if wanted else (3,) if colours else ()
    with ExitStack() as stack:
        offline = {} if any(isinstance(path, Remote) for path in paths) else OFFLINE
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE_MB, **offline))
        try:
            datasets = [stack.enter_context(open_dataset(rasterio, path)) for path in paths]
        except rasterio.errors.RasterioError as error:
            raise _unreadable(paths[0], error) from error
        total, marked = sum(dataset.count for dataset in datasets), alpha_band(datasets)
        # An expected band is never alpha: most programs take four bands of bytes for RGBA.
        alpha = marked if total not in counts and total - 1 in counts else None
        palette = palette_of(datasets[0]) if total == 1 and 1 not in counts and 3 in counts else None
        names = [path.name for path in paths]
        bands = bands_of(names, datasets)
        if palette is not None:
            bands = [Band(name) for name in ("red", "green", "blue")]
        elif alpha is not None:
            del bands[alpha]
        order = band_order(bands, wanted, str(paths[0])) if wanted else colour_order(bands) if colours else None
        grid = like.grid if like else datasets[_grid_file(datasets, bands, wanted)]
        warped: dict[str, float] = {}
        tags: list[Tag] = []
        opened = []
        for path, dataset in zip(paths, datasets, strict=True):
            own = gaps.tags(dataset.nodatavals, is_colour_image(dataset), str(path))
            if dataset is not grid and not same_grid(grid, dataset):
                nearest = labels or dataset.colorinterp[0].name == "palette"
                how: dict[str, Any] = {"src_nodata": None if labels else own[0].value}  # in masks it may be a class
                how["UNIFIED_SRC_NODATA"] = "NO" if own[0].group is None else "YES"
                try:
                    dataset, warped[path.name] = on_grid(path, dataset, grid, nearest, **how)
                except rasterio.errors.RasterioError as error:
                    raise _unreadable(path, error) from error
                stack.enter_context(dataset)
                own = [tag.after_warping() for tag in own]
            opened.append(dataset)
            tags += own
        tagged = {float(value) for dataset in datasets for value in dataset.nodatavals if value is not None}
        seen = wanted is not None and order is not None and alpha is None and marked in order.positions
        notes = alpha_note(alpha is not None, seen) + (() if labels else scale_note(datasets) + unturned_note(paths))
        if gaps.nodata is not None and (others := tagged - {gaps.nodata}):
            notes += (f"it tags {min(others):g} as nodata, which is used, and not {gaps.nodata:g}",)
        yield Raster(opened, paths, grid, tags, bands, warped, alpha, palette, tuple(sorted(tagged)), notes, order)


def open_dataset(rasterio: Any, path: Location) -> Any:
    """Open one file with rasterio.

    Raises:
        InputError: No such file, several images in it, or it stands for files elsewhere.
    """
    if isinstance(path, Path):
        files = require_local(path)
        dataset = rasterio.open(path, driver=driver_of(path))
        _require_real(path, dataset)
        claimed = (dataset.count, dataset.height, dataset.width)
        held = sum(file.stat().st_size for file in files if file.exists())
        itemsize = max(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
        try:
            require_room(path, claimed, itemsize, held, ANY, whole=False)
        except InputError:
            dataset.close()
            raise
    else:
        dataset = rasterio.open(path.text)
        _require_real(path, dataset)
    if pages := len(dataset.subdatasets):
        dataset.close()
        raise InputError(
            f"{path}: holds {pages} images (pages), and only single ones are read. Save each page as a "
            "file of its own, or slices of a volume together as NIfTI."
        )
    return dataset


def _require_real(path: Location, dataset: Any) -> None:
    if found := [dtype for dtype in dataset.dtypes if dtype.startswith("complex")]:
        dataset.close()
        raise InputError(f"{path}: holds complex numbers ({found[0]}), as of radar. Save their amplitude as float32.")


def _grid_file(datasets: Sequence[Any], bands: Sequence[Band], wanted: Wanted | None) -> int:
    """Return the position of the file whose pixels are used."""
    if wanted is None or wanted.grid is None or len(datasets) == 1:
        return finest(datasets)
    listed = [*(wanted.bands or wanted.channels)]
    named = [k for k, band in enumerate(bands) if simple(wanted.grid) in band.names]
    place = named[0] if named else listed.index(wanted.grid) if len(bands) == len(listed) else None
    files = [k for k, dataset in enumerate(datasets) for _ in range(dataset.count)]
    return finest(datasets) if place is None else files[place]


def _has_mask(dataset: Any) -> bool:
    """Return whether a mask beside the bands marks where there is data, as in compressed orthophotos."""
    return [flag.name for flag in dataset.mask_flag_enums[0]] == ["per_dataset"]


def _unreadable(path: Location, error: Exception) -> InputError:
    return unreadable(path, Path(path.name).suffix.lower(), error.__cause__ or error)


def read_raster(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read a whole raster as one slice with its bands as channels, NaN where there is no data; masks raw."""
    with open_rasters([path], colours=keys is COLOUR_KEYS) as raster:
        if keys is MASK_KEYS or keys is COLOUR_KEYS:
            return Picture(raster.read_seen(0, 0, *raster.shape, raw=True)[None], gaps=True, nodata=raster.nodata)
        array = raster.read(0, 0, *raster.shape).astype(raster.dtype)
        return Picture(array[None], gaps=True)


def read_scene(paths: Sequence[Path], wanted: Wanted) -> Picture:
    """Read the channels that a network sees, of a whole raster, as one slice; NaN where there is no data."""
    with open_rasters(paths, wanted) as raster:
        return Picture(raster.read_seen(0, 0, *raster.shape)[None], gaps=True, notes=tuple(raster.told.values()))


def import_rasterio(path: Location) -> Any:
    """Import rasterio, or raise an error that tells how to install it."""
    try:
        import rasterio
        import rasterio.shutil
    except ImportError as error:
        raise InputError(f"{path}: this format needs rasterio: pip install 'mlla_seg[geo]'") from error
    # Scenes without a georeference are valid. Not restored, as warning filters are not local to a thread.
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio

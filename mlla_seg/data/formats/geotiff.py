"""Georeferenced rasters through rasterio, read by windows, so that scenes may exceed memory.

A raster has bands, rows and columns; a coordinate reference system (CRS) and a geotransform locate its pixels on the
ground. Pixels without data are those with the file's nodata value, outside its mask or alpha band, or not finite. They
are read as NaN, which ``data/reading.py`` turns into the ignore index of masks.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.arrays import MASK_KEYS
from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.formats.picture import Array, Picture
from mlla_seg.errors import InputError

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt")
SMALL = {"uint8", "uint16", "int16"}
"""Data types that are kept in the store."""
CACHE_MB = 128
"""Size of GDAL's block cache, by default a twentieth of the machine's memory."""


@dataclass(frozen=True)
class Raster:
    """Bands of one or more open files, on the grid of the first."""

    datasets: Sequence[Any]
    paths: Sequence[Path]
    warped: tuple[Path, ...] = ()
    """Files on another grid than the first, which are warped while they are read."""
    alpha: bool = False
    """Whether the last band is an alpha band, which only marks where there is data and is not counted."""
    nodata: tuple[float, ...] = ()
    """Values that the files tag as without data."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.datasets[0].height, self.datasets[0].width

    @property
    def count(self) -> int:
        """Number of bands of all files together."""
        return sum(dataset.count for dataset in self.datasets) - self.alpha

    @property
    def ground(self) -> Ground | None:
        """Georeference of the first file, if it has one."""
        return ground_of(self.datasets[0])

    @property
    def dtype(self) -> Any:
        """Type that holds every band: a small integer type if none has gaps, else float32 with NaN for gaps."""
        found = {dtype for dataset in self.datasets for dtype in dataset.dtypes}
        gaps = self.alpha or any(
            value is not None or _has_mask(dataset) for dataset in self.datasets for value in dataset.nodatavals
        )
        return np.dtype(found.pop()) if len(found) == 1 and found <= SMALL and not gaps else np.dtype(np.float32)

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

        part = Window(left, top, width, height)
        bands: list[Array] = []
        for path, dataset in zip(self.paths, self.datasets, strict=True):
            try:
                own = dataset.read(window=part).astype(np.float32)
                for band, nodata in zip(own, dataset.nodatavals, strict=True):
                    gaps = ~np.isfinite(band)
                    if nodata is not None and not raw:
                        gaps |= band == np.float32(nodata)
                    band[gaps] = np.nan
                if _has_mask(dataset):
                    own[:, dataset.read_masks(1, window=part) == 0] = np.nan
            except RasterioError as error:
                raise _unreadable(path, error) from error
            bands.extend(own)
        if self.alpha:
            transparent = bands.pop() == 0
            for band in bands:
                band[transparent] = np.nan
        return np.stack(bands)


@contextmanager
def open_rasters(
    paths: Sequence[Path], like: Raster | None = None, labels: bool = False, counts: Collection[int] = ()
) -> Iterator[Raster]:
    """Open files as one raster on the grid of the first, or of another raster.

    A file with another position, CRS or pixel size is warped while it is read: labels with nearest-neighbour,
    everything else with bilinear interpolation. Files without a georeference must have the same height and width.

    Args:
        paths: Files to open.
        like: Raster whose grid is used.
        labels: Whether values stand for classes.
        counts: Expected numbers of bands; one more, if it is an alpha band, only marks where there is data.

    Raises:
        InputError: rasterio is not installed, a file is not a raster or holds several, or the files do not match.
    """
    rasterio = import_rasterio(paths[0])
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE_MB))
        datasets: list[Any] = [*like.datasets[:1]] if like else []
        warped = []
        tagged: set[float] = set()
        for path in paths:
            if not path.exists():
                raise InputError(f"{path}: no such file.")
            try:
                dataset = stack.enter_context(rasterio.open(path))
                if pages := len(dataset.subdatasets):
                    raise InputError(
                        f"{path}: holds {pages} images (pages), and only single ones are read. Save each page as a "
                        "file of its own, or slices of a volume together as NIfTI."
                    )
                tagged |= {float(value) for value in dataset.nodatavals if value is not None}
                if datasets and not _same_grid(datasets[0], dataset):
                    dataset = stack.enter_context(_on_grid(path, dataset, datasets[0], labels))
                    warped.append(path)
            except rasterio.errors.RasterioError as error:
                raise _unreadable(path, error) from error
            datasets.append(dataset)
        datasets = datasets[1:] if like else datasets
        count = sum(dataset.count for dataset in datasets)
        # An expected band is never alpha: most programs take four bands of bytes for RGBA.
        alpha = count not in counts and count - 1 in counts and datasets[-1].colorinterp[-1].name == "alpha"
        yield Raster(datasets, paths, tuple(warped), alpha, tuple(sorted(tagged)))


def ground_of(dataset: Any) -> Ground | None:
    """Return the georeference of an open file, if it has one."""
    if dataset.transform.is_identity:
        return None
    crs = dataset.crs.to_wkt() if dataset.crs else None
    return Ground(crs, tuple(dataset.transform)[:6], (dataset.height, dataset.width))


def _has_mask(dataset: Any) -> bool:
    """Return whether a mask beside the bands marks where there is data, as in compressed orthophotos."""
    return [flag.name for flag in dataset.mask_flag_enums[0]] == ["per_dataset"]


def _same_grid(first: Any, other: Any) -> bool:
    """Return whether pixels coincide up to a tenth of a pixel, as far as both files are georeferenced."""
    if (other.height, other.width) != (first.height, first.width):
        return False
    if first.transform.is_identity or other.transform.is_identity:
        return True
    corners = [(0, 0), (first.width, 0), (0, first.height), (first.width, first.height)]
    there = [~first.transform * (other.transform * corner) for corner in corners]
    elsewhere = bool(first.crs and other.crs and first.crs != other.crs)
    return not elsewhere and bool(np.abs(np.subtract(there, corners)).max() < 0.1)


def _on_grid(path: Path, dataset: Any, first: Any, labels: bool) -> Any:
    """Warp a dataset to the grid of another; float32, NaN where it has no data."""
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    if first.transform.is_identity or dataset.transform.is_identity:
        raise InputError(
            f"{path}: {dataset.height} x {dataset.width} pixels, but {Path(first.name).name} has {first.height} x "
            f"{first.width}. Files of different sizes must both be georeferenced."
        )
    crs = first.crs or dataset.crs or "EPSG:3857"  # any will do if neither has one: coordinates do not change
    grid = {"crs": crs, "transform": first.transform, "height": first.height, "width": first.width}
    grid |= {"src_crs": dataset.crs or crs, "dtype": "float32", "nodata": np.nan}
    if labels:  # whose nodata value may be a class
        return WarpedVRT(dataset, resampling=Resampling.nearest, src_nodata=None, **grid)
    return WarpedVRT(dataset, resampling=Resampling.bilinear, **grid)


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error.__cause__ or error).split())
    return InputError(
        f"{path}: cannot be read as {path.suffix.lower()} ({reason}). Is it complete? Copy or download it again."
    )


def read_raster(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read a whole raster as one slice with its bands as channels, NaN where there is no data; masks raw."""
    with open_rasters([path]) as raster:
        if keys is MASK_KEYS:
            return Picture(raster.read(0, 0, *raster.shape, raw=True)[None], gaps=True, nodata=raster.nodata)
        array = raster.read(0, 0, *raster.shape).astype(raster.dtype)
        return Picture(array[None], gaps=True)


def import_rasterio(path: Path) -> Any:
    """Import rasterio, or raise an error that tells how to install it."""
    try:
        import rasterio
        import rasterio.shutil
    except ImportError as error:
        raise InputError(f"{path}: this format needs rasterio: pip install 'mlla_seg[geo]'") from error
    # Scenes without a georeference are valid. Not restored, as warning filters are not local to a thread.
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio

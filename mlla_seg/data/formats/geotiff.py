"""Georeferenced rasters through rasterio: read by windows, so that no scene has to fit into memory.

A raster has bands, rows and columns; a coordinate reference system (CRS) and a geotransform say where its pixels lie.
Pixels without data are those of the file's nodata value, outside of its mask or alpha, and those not finite.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.formats.picture import Array, Picture
from mlla_seg.errors import InputError

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt")
SMALL = {"uint8", "uint16", "int16"}
"""Types that stay as they are in the store."""
CACHE_MB = 128
"""GDAL keeps blocks that were read or written, by default a twentieth of the machine's memory."""


@dataclass(frozen=True)
class Raster:
    """The bands of one or several open files, on the grid of the first."""

    datasets: Sequence[Any]
    paths: Sequence[Path]
    warped: tuple[Path, ...] = ()
    """Files that lie on another grid than the first and are brought to it while they are read."""
    alpha: bool = False
    """Whether the last band says where there is data, and is not counted."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.datasets[0].height, self.datasets[0].width

    @property
    def count(self) -> int:
        """Bands of all files together."""
        return sum(dataset.count for dataset in self.datasets) - self.alpha

    @property
    def ground(self) -> Ground | None:
        """Where it lies, if the first file says it."""
        return ground_of(self.datasets[0])

    @property
    def dtype(self) -> Any:
        """The type that holds every band: float32, with NaN for gaps, for all but small integers without any."""
        found = {dtype for dataset in self.datasets for dtype in dataset.dtypes}
        gaps = self.alpha or any(
            value is not None or _has_mask(dataset) for dataset in self.datasets for value in dataset.nodatavals
        )
        return np.dtype(found.pop()) if len(found) == 1 and found <= SMALL and not gaps else np.dtype(np.float32)

    def read(self, top: int, left: int, height: int, width: int) -> Array:
        """A part of it.

        Args:
            top: First row.
            left: First column.
            height: Rows.
            width: Columns.

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
                    gaps = ~np.isfinite(band) if nodata is None else ~np.isfinite(band) | (band == np.float32(nodata))
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
    """Opens files as one raster on the grid of the first, or on another one's.

    A file that lies elsewhere on the ground, in another CRS or with other pixels, is warped while it is read: labels to
    the nearest pixel, anything else linearly. Files that do not say where they lie need the same height and width.

    Args:
        paths: The files.
        like: The raster whose grid they are brought to.
        labels: Whether values stand for classes.
        counts: Numbers of bands that are expected: where there is one more, an alpha, it only says where there is data.

    Raises:
        InputError: rasterio is not installed, a file is no raster, or they do not fit together.
    """
    rasterio = import_rasterio(paths[0])
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE_MB))
        datasets: list[Any] = [*like.datasets[:1]] if like else []
        warped = []
        for path in paths:
            if not path.exists():
                raise InputError(f"{path}: no such file.")
            try:
                dataset = stack.enter_context(rasterio.open(path))
                if datasets and not _same_grid(datasets[0], dataset):
                    dataset = stack.enter_context(_on_grid(path, dataset, datasets[0], labels))
                    warped.append(path)
            except rasterio.errors.RasterioError as error:
                raise _unreadable(path, error) from error
            datasets.append(dataset)
        datasets = datasets[1:] if like else datasets
        count = sum(dataset.count for dataset in datasets)
        # Never an alpha that is expected as a band: four bands of bytes are taken for RGBA by most programs.
        alpha = count not in counts and count - 1 in counts and datasets[-1].colorinterp[-1].name == "alpha"
        yield Raster(datasets, paths, tuple(warped), alpha)


def ground_of(dataset: Any) -> Ground | None:
    """Where an open file lies, if it says so."""
    if dataset.transform.is_identity:
        return None
    crs = dataset.crs.to_wkt() if dataset.crs else None
    return Ground(crs, tuple(dataset.transform)[:6], (dataset.height, dataset.width))


def _has_mask(dataset: Any) -> bool:
    """Whether a mask beside the bands says where there is data, as in compressed orthophotos."""
    return [flag.name for flag in dataset.mask_flag_enums[0]] == ["per_dataset"]


def _same_grid(first: Any, other: Any) -> bool:
    """Whether pixels lie in the same places, up to a tenth of a pixel, as far as both files say it."""
    if (other.height, other.width) != (first.height, first.width):
        return False
    if first.transform.is_identity or other.transform.is_identity:
        return True
    corners = [(0, 0), (first.width, 0), (0, first.height), (first.width, first.height)]
    there = [~first.transform * (other.transform * corner) for corner in corners]
    elsewhere = bool(first.crs and other.crs and first.crs != other.crs)
    return not elsewhere and bool(np.abs(np.subtract(there, corners)).max() < 0.1)


def _on_grid(path: Path, dataset: Any, first: Any, labels: bool) -> Any:
    """A dataset as seen on the grid of another; float32, NaN where it has no data."""
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    if first.transform.is_identity or dataset.transform.is_identity:
        raise InputError(
            f"{path}: {dataset.height} x {dataset.width} pixels, but {Path(first.name).name} has {first.height} x "
            f"{first.width}, and not both say where they lie on the ground."
        )
    crs = first.crs or dataset.crs or "EPSG:3857"  # any, where neither says one: coordinates are not changed then
    grid = {"crs": crs, "transform": first.transform, "height": first.height, "width": first.width}
    how = Resampling.nearest if labels else Resampling.bilinear
    return WarpedVRT(dataset, src_crs=dataset.crs or crs, resampling=how, dtype="float32", nodata=np.nan, **grid)


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error.__cause__ or error).split())
    return InputError(
        f"{path}: cannot be read as {path.suffix.lower()} ({reason}). Is it complete? Copy or download it again."
    )


def read_raster(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Reads a whole raster as one slice with its bands as channels, NaN where there is no data."""
    with open_rasters([path]) as raster:
        array = raster.read(0, 0, *raster.shape).astype(raster.dtype)
        return Picture(array[None], gaps=True)


def import_rasterio(path: Path) -> Any:
    """rasterio, or the line that says how to get it."""
    try:
        import rasterio
        import rasterio.shutil
    except ImportError as error:
        raise InputError(f"{path}: this format needs rasterio: pip install 'mlla_seg[geo]'") from error
    # Scenes that do not say where they lie are as good. For good, as filters cannot be set for one thread.
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio

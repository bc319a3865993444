"""Georeferenced rasters through rasterio: read by windows, so that no scene has to fit into memory.

A raster has bands, rows and columns; a coordinate reference system (CRS) and a geotransform say where its pixels lie,
and go to the map that is made of it. Pixels without data are those of the file's nodata value and those not finite.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.arrays import MASK_KEYS
from mlla_seg.data.picture import Array, Picture, compact, stored_values
from mlla_seg.errors import InputError

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt")
NODATA = 255
"""Of maps: where the scene has no data."""
TILE = 512
"""Side of the tiles that maps are stored in."""
CACHE_MB = 128
"""GDAL keeps blocks that were read or written, by default a twentieth of the machine's memory."""


@contextmanager
def open_raster(path: Path) -> Iterator[Any]:
    """A rasterio dataset, open for reading.

    Raises:
        InputError: rasterio is not installed, or the file is no raster; or a block of it cannot be read.
    """
    rasterio = _rasterio(path)
    if not path.exists():
        raise InputError(f"{path}: no such file.")
    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path) as dataset:
                yield dataset
    except rasterio.errors.RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            f"{path}: cannot be read as {path.suffix.lower()} ({reason}). Is it complete? Copy or download it again."
        ) from error


def read_part(dataset: Any, top: int, left: int, height: int, width: int) -> Array:
    """A part of a raster.

    Args:
        dataset: An open raster.
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.

    Returns:
        ``(C, height, width)`` float32, NaN where a band has no data.
    """
    from rasterio.windows import Window

    stored = dataset.read(window=Window(left, top, width, height))
    array = stored.astype(np.float32)
    for k, nodata in enumerate(dataset.nodatavals):
        array[k][~_present(stored[k], nodata)] = np.nan
    return array


def read_raster(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Reads a whole raster as one slice with its bands as channels; gaps of an image hold the mean of their band."""
    with open_raster(path) as dataset:
        array = dataset.read()
        present: Array = np.stack(
            [_present(band, nodata) for band, nodata in zip(array, dataset.nodatavals, strict=True)]
        )
    if present.all():
        return Picture(compact(array[None]))
    if keys is not MASK_KEYS:
        for k, known in enumerate(present):
            array[k][~known] = array[k][known].mean() if known.any() else 0
    return Picture(compact(array[None]), valid=np.logical_and.reduce(present)[None])


def _present(band: Array, nodata: float | None) -> Array:
    """Where a band ``(H, W)`` has data."""
    present: Array = np.isfinite(band)
    if nodata is not None and not np.isnan(nodata):
        present &= band != nodata
    return present


def write_map(
    path: Path,
    labels: Callable[[slice, slice], Array],
    shape: tuple[int, int],
    classes: Sequence[Mapping[str, Any]],
    source: Path,
    cog: bool = False,
) -> None:
    """Writes a map of classes: tiled, compressed, with overviews, a colour table, and the source's place on the ground.

    Args:
        path: A GeoTIFF; written as it is, so give a temporary name.
        labels: Gives the class indices of some rows and columns, ``NODATA`` where there is no data.
        shape: H and W.
        classes: Names and colours, and ids where they are not the positions.
        source: The raster whose CRS and geotransform it takes.
        cog: Cloud Optimized GeoTIFF: overviews before the data, for reading over a network.
    """
    rasterio = _rasterio(path)
    height, width = shape
    with open_raster(source) as dataset:
        place = {"crs": dataset.crs, "transform": dataset.transform}
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": height, "width": width, "nodata": NODATA}
    profile |= {"tiled": True, "blockxsize": TILE, "blockysize": TILE, "compress": "deflate", "BIGTIFF": "IF_SAFER"}
    lookup = np.full(256, NODATA, np.uint8)
    lookup[: len(classes)] = stored_values(np.arange(len(classes)), classes)
    colours = {int(lookup[k]): (*entry["colour"], 255) for k, entry in enumerate(classes)}
    plain = path.with_name(path.name + ".plain") if cog else path
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(plain, "w", **profile, **place) as target:
            target.write_colormap(1, {**colours, NODATA: (0, 0, 0, 0)})
            target.update_tags(1, **{f"class_{int(lookup[k])}": entry["name"] for k, entry in enumerate(classes)})
            for _, part in target.block_windows(1):
                target.write(lookup[labels(*part.toslices())], 1, window=part)
            smaller = [2**k for k in range(1, 16) if max(height, width) / 2**k >= TILE / 2]
            target.build_overviews(smaller, rasterio.enums.Resampling.nearest)
        if cog:
            try:
                rasterio.shutil.copy(
                    plain, path, driver="COG", COMPRESS="DEFLATE", BLOCKSIZE=TILE, OVERVIEW_RESAMPLING="NEAREST"
                )
            finally:
                plain.unlink()


def _rasterio(path: Path) -> Any:
    try:
        import rasterio
        import rasterio.shutil
    except ImportError as error:
        raise InputError(f"{path}: this format needs rasterio: pip install 'mlla_seg[geo]'") from error
    return rasterio

"""Segmentation maps and class probabilities as GeoTIFF, with overviews, colours and the georeference of their scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.classes import ClassInfo, stored_values
from mlla_seg.data.formats.geotiff import CACHE_MB, import_rasterio
from mlla_seg.data.formats.picture import Array
from mlla_seg.disk_space import require_room

NODATA = 255
"""Value without data, in class indices and stored probabilities, and in files unless a class id is as high."""
FULL = 250
"""Stored value of probability 1; files contain the scale."""
TILE = 512
"""Side of the internal tiles of a GeoTIFF in pixels."""

Part = Callable[[slice, slice], Array]
"""Returns the values of some rows and columns."""


def write_map(
    path: Path,
    labels: Part,
    shape: tuple[int, int],
    classes: Sequence[ClassInfo],
    place: Mapping[str, Any],
    cog: bool = False,
) -> None:
    """Write a segmentation map: tiled, compressed, with overviews, a colour table and the georeference of its scene.

    Args:
        path: GeoTIFF, written in place, so pass a temporary name.
        labels: Returns class indices ``(h, w)``, ``NODATA`` where there is no data.
        shape: H and W.
        classes: Names, colours, and ids where they are not the positions.
        place: Georeference of the scene, see ``Raster.place``.
        cog: Write a Cloud Optimized GeoTIFF: overviews before the data, for reading over a network.
    """
    values = stored_values(np.arange(len(classes)), classes)
    if values.max() >= NODATA:
        values = values.astype(np.uint16)
    lookup = np.full(256, np.iinfo(values.dtype).max, values.dtype)
    lookup[: len(classes)] = values
    colours = {int(lookup[k]): (*entry.colour, 255) for k, entry in enumerate(classes)}
    with _tiled(path, shape, 1, place, cog, dtype=str(values.dtype)) as target:
        target.write_colormap(1, {**colours, int(lookup[NODATA]): (0, 0, 0, 0)})
        target.update_tags(1, **{f"class_{int(lookup[k])}": entry.name for k, entry in enumerate(classes)})
        for _, part in target.block_windows(1):
            target.write(lookup[labels(*part.toslices())], 1, window=part)


def write_probability_map(
    path: Path,
    probabilities: Part,
    shape: tuple[int, int],
    names: Sequence[str],
    place: Mapping[str, Any],
    cog: bool = False,
) -> None:
    """Write class probabilities, one band per class, uint8 with the scale 1 / ``FULL``.

    Args:
        path: GeoTIFF, written in place, so pass a temporary name.
        probabilities: Returns stored values ``(K, h, w)`` from 0 to ``FULL``, ``NODATA`` where there is no data.
        shape: H and W.
        names: Names of the classes.
        place: Georeference of the scene, see ``Raster.place``.
        cog: Write a Cloud Optimized GeoTIFF.
    """
    with _tiled(path, shape, len(names), place, cog, resampling="average") as target:
        target.scales = [1 / FULL] * len(names)
        for k, name in enumerate(names):
            target.set_band_description(k + 1, name)
        for _, part in target.block_windows(1):
            target.write(probabilities(*part.toslices()), window=part)


@contextmanager
def _tiled(
    path: Path,
    shape: tuple[int, int],
    count: int,
    place: Mapping[str, Any],
    cog: bool,
    resampling: str = "nearest",
    dtype: str = "uint8",
) -> Iterator[Any]:
    """Open a GeoTIFF to be filled, with its highest value as nodata; overviews are built when the block ends."""
    rasterio = import_rasterio(path)
    height, width = shape
    profile = {"driver": "GTiff", "dtype": dtype, "count": count, "height": height, "width": width}
    profile |= {"nodata": np.iinfo(dtype).max}
    profile |= {"tiled": True, "blockxsize": TILE, "blockysize": TILE, "compress": "deflate", "BIGTIFF": "IF_SAFER"}
    profile |= {"photometric": "minisblack", "alpha": "unspecified"} if count > 1 else {}  # not RGB, no alpha
    plain = path.with_name(path.name + ".plain") if cog else path
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        with rasterio.open(plain, "w", **profile, **place) as target:
            yield target
            smaller = [2**k for k in range(1, 16) if max(height, width) / 2**k >= TILE / 2]
            target.build_overviews(smaller, rasterio.enums.Resampling[resampling])
        require_room(plain)  # GDAL does not say if the rest of a file finds none when it is closed
        if cog:
            how = {"COMPRESS": "DEFLATE", "BLOCKSIZE": TILE, "OVERVIEW_RESAMPLING": resampling.upper()}
            rasterio.shutil.copy(plain, path, driver="COG", **how)
            require_room(path)
            plain.unlink()

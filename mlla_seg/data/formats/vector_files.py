"""Vector layers for GIS, written in batches: GeoPackage and GeoJSON."""

from __future__ import annotations

import errno
import io
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError, lookup

FORMATS = {"gpkg": "GPKG", "geojson": "GeoJSON"}
"""Suffixes of vector files, and the drivers that write them."""
SYNCHRONOUS = "OGR_SQLITE_SYNCHRONOUS"
"""GDAL's option for when SQLite waits for the disk."""


class Write(Protocol):
    """Appends polygons and their attributes to a layer."""

    def __call__(self, polygons: Array, fields: Mapping[str, Array]) -> None: ...


def require_vector_format(format: str) -> None:
    """Raise if a format is unknown or cannot be written, before hours of work.

    Raises:
        InputError: Names the formats, or what to install.
    """
    lookup(FORMATS, format, "format of polygons")
    try:
        import pyogrio  # noqa: F401
        import shapely  # noqa: F401
    except ImportError as error:
        raise InputError("--polygons needs pyogrio and shapely: pip install 'mlla_seg[geo]'") from error


@contextmanager
def vector_layer(path: Path, format: str, crs: str | None) -> Iterator[Write]:
    """Open a layer named ``classes`` and yield a function that appends to it; called once with none, it is empty.

    Args:
        path: Vector file, written in place, so pass a temporary name.
        format: A name in ``FORMATS``. GeoJSON is RFC 7946: longitude and latitude of WGS 84 with 7 decimals, outlines
            anticlockwise, polygons cut at the antimeridian.
        crs: CRS of the polygons, if any.
    """
    path.unlink(missing_ok=True)
    with _geopackage(path, crs) if format == "gpkg" else _geojson(path, crs) as write:
        yield write


@contextmanager
def _geopackage(path: Path, crs: str | None) -> Iterator[Write]:
    import pyogrio
    import shapely

    def append(polygons: Array, fields: Mapping[str, Array]) -> None:
        try:
            _write(path, polygons, fields, "gpkg", crs, append=path.exists())
        except RuntimeError as error:  # SQLite gives back what the batch had taken, and GDAL does not say why
            rows = 3 * sum(map(len, shapely.to_wkb(polygons)))  # with attributes, spatial index and journal
            if shutil.disk_usage(path.parent).free < rows:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise

    # SQLite waits for the disk after each row if the disk is full; we wait once, at the end.
    before = pyogrio.get_gdal_config_option(SYNCHRONOUS)
    pyogrio.set_gdal_config_options({SYNCHRONOUS: "OFF"})
    try:
        yield append
    finally:
        pyogrio.set_gdal_config_options({SYNCHRONOUS: before})
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _geojson(path: Path, crs: str | None) -> Iterator[Write]:
    with path.open("wb") as file:

        def append(polygons: Array, fields: Mapping[str, Array]) -> None:
            if len(polygons):
                part = io.BytesIO()
                _write(part, polygons, fields, "geojson", crs, layer_options={"RFC7946": "YES"})
                text = part.getvalue()
                first, end = text.index(b"[", text.index(b'"features"')) + 1, text.rindex(b"]")
                file.write(b"," if file.tell() > start else b"")
                file.write(memoryview(text)[first:end])

        file.write(b'{\n"type": "FeatureCollection",\n"name": "classes",\n"features": [')
        start = file.tell()
        yield append
        file.write(b"]\n}\n")


def _write(
    target: Path | io.BytesIO,
    polygons: Array,
    fields: Mapping[str, Array],
    format: str,
    crs: str | None,
    **options: Any,
) -> None:
    import pyogrio
    import shapely

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")  # the scene may have none
        pyogrio.raw.write(
            target,
            geometry=shapely.to_wkb(polygons),
            field_data=list(fields.values()),
            fields=list(fields),
            geometry_type="Polygon",
            crs=crs,
            driver=FORMATS[format],
            layer="classes",
            **options,
        )

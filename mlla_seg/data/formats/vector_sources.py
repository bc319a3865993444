"""Vector files with polygons: GeoPackage, GeoJSON and shapefiles, read by windows so that they may exceed memory.

Only the driver of a file's suffix ever sees it. GDAL would open a ``.geojson`` by its content, and that may be a
description of a service in the network.
"""

from __future__ import annotations

import atexit
import mmap
import re
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.unreadable import unreadable
from mlla_seg.errors import InputError, lookup

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".shp")
DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".shp": "ESRI Shapefile"}
SIBLINGS = (".shx", ".dbf", ".prj", ".cpg", ".qpj")
"""Suffixes of the other files of a shapefile."""
SURFACES = {15: "PolyhedralSurface", 16: "TIN", 17: "Triangle"}
"""Types of geometries in WKB that shapely does not know."""
BATCH = 2**16
"""Features that are read at once."""
HEAD = 6000
"""Bytes within which a GeoJSON must say that it is one, as for GDAL."""
IS_GEOJSON = re.compile(rb'"type"\s*:\s*"(FeatureCollection|Feature|GeometryCollection|(Multi)?Polygon)"')
LINKED_CRS = re.compile(rb'"crs"\s*:\s*\{[^{}]*(\{[^{}]*)?"(href|url|link)"', re.IGNORECASE)
"""A CRS that GDAL would fetch from an address."""

Box = tuple[float, float, float, float]
"""Lowest x and y, highest x and y."""


@dataclass(frozen=True)
class Features:
    """Features of a layer."""

    ids: Array
    shapes: Array
    """Geometries as WKB, None where there is none; curves have become lines."""
    values: Sequence[Any]
    """Values of the attribute."""

    def geometries(self) -> Array:
        """Return the geometries for shapely; None where there is none, or one that it does not know."""
        import shapely

        with np.errstate(invalid="ignore"):  # coordinates may be NaN
            return shapely.from_wkb(self.shapes, on_invalid="ignore")

    def unread(self, shapes: Array) -> list[str]:
        """Return the type of each geometry that is missing among the shapes, but not in the file."""
        lost = [wkb for wkb, shape in zip(self.shapes, shapes, strict=True) if wkb and shape is None]
        codes = [int.from_bytes(wkb[1:5], "little" if wkb[0] else "big") % 1000 for wkb in lost]
        return [SURFACES.get(code, "damaged geometry") for code in codes]


@dataclass(frozen=True)
class Layer:
    """A layer with polygons."""

    path: Path
    """File, for messages."""
    source: Path
    """File that is read, which has a spatial index."""
    name: str
    crs: str | None
    fields: Mapping[str, str]
    """Types of attributes by name."""
    count: int
    """Number of features."""
    column: str | None
    """Attribute that is read, by its name in ``source``."""

    def read(self, box: Box | None = None, first: int = 0) -> Features:
        """Return the features whose bounds touch a box; without one, ``BATCH`` features from ``first`` on."""
        columns = [] if self.column is None else [self.column]
        part: dict[str, Any] = {"skip_features": first, "max_features": BATCH} if box is None else {"bbox": box}
        _, ids, shapes, values = _raw(self, columns=columns, return_fids=True, **part)
        return Features(ids, shapes, values[0].tolist() if columns else [None] * len(ids))

    def touching(self, box: Box) -> tuple[Array, Array]:
        """Return the ids of the features whose bounds touch a box, and these bounds ``(4, n)``."""
        import pyogrio

        with _readable(self.path):
            return pyogrio.read_bounds(self.source.absolute(), layer=self.name, bbox=box)

    def bounds(self) -> Box:
        """Return the lowest and highest coordinates."""
        import pyogrio

        with _readable(self.path):
            _, corners = pyogrio.read_bounds(self.source.absolute(), layer=self.name)
        return (*corners[:2].min(axis=1), *corners[2:].max(axis=1))

    def batches(self) -> Iterator[Features]:
        """Yield all features in batches."""
        for first in range(0, self.count, BATCH):
            yield self.read(first=first)


def _raw(layer: Layer, **options: Any) -> Any:
    import pyogrio

    with _readable(layer.path):
        return pyogrio.raw.read(layer.source.absolute(), layer=layer.name, **options)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what pyogrio raises for a damaged file into an :class:`InputError`."""
    from pyogrio import errors

    try:
        yield
    except UnicodeDecodeError as error:
        shown = bytes(error.object[:40]).decode("utf-8", "backslashreplace")
        raise InputError(
            f"{path}: its text '{shown}' is not in {error.encoding.upper()}. Save it in UTF-8; the encoding of a "
            "shapefile stands in its .cpg."
        ) from error
    except (errors.DataSourceError, errors.DataLayerError) as error:
        raise unreadable(path, path.suffix.lower(), error) from error


def is_vector(path: Path | str) -> bool:
    """Return whether a file has the suffix of a vector file."""
    return str(path).lower().endswith(VECTOR_SUFFIXES)


def parts_of(path: Path) -> list[Path]:
    """Return the files in which the content of a vector file is stored; of any other file, the file."""
    suffix = path.suffix.lower()
    if suffix == ".shp":
        own = path.stem
        beside = [p for p in sorted(path.parent.glob(f"{_literal(own)}.*")) if p.suffix.lower() in SIBLINGS]
        return [path, *beside]
    log = path.with_name(f"{path.name}-wal")  # what another program has written and not yet merged
    return [path, log] if suffix == ".gpkg" and log.is_file() and log.stat().st_size else [path]


def _literal(name: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", name)


def open_layer(path: Path, name: str | None = None, attribute: str | None = None, key: str = "layer") -> Layer:
    """Open the layer with polygons of a file.

    Args:
        path: The file.
        name: Name of the layer, needed if several have polygons.
        attribute: Attribute that is read, if any.
        key: Key of the card that names the layer, for messages.

    Raises:
        InputError: pyogrio is not installed, the file is not what its suffix says or is damaged, or it has no layer of
            polygons or no such attribute.
    """
    try:
        import pyogrio
    except ImportError as error:
        raise InputError(f"{path}: labels as polygons need pyogrio: pip install 'mlla_seg[geo]'") from error
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    suffix = path.suffix.lower()
    _require_format(path, suffix)
    place = path.absolute()
    with _readable(path):
        layers = {str(layer): str(kind) for layer, kind in pyogrio.list_layers(place) if kind is not None}
        chosen = _choose(path, layers, name, key)
        about = pyogrio.read_info(place, layer=chosen, force_feature_count=True)
    if about["driver"] != DRIVERS[suffix]:
        raise InputError(f"{path}: is {about['driver']} inside, expected {DRIVERS[suffix]} by its suffix.")
    fields = dict(zip(map(str, about["fields"]), map(str, about["dtypes"]), strict=True))
    if attribute is not None:
        lookup(fields, attribute, f"attribute of {path}:")
    layer = Layer(path, path, chosen, about["crs"], fields, int(about["features"]), attribute)
    return _indexed(layer) if suffix == ".geojson" else layer


def _choose(path: Path, layers: Mapping[str, str], name: str | None, key: str) -> str:
    """Return the layer that is named, or the only one that may hold polygons."""
    if path.suffix.lower() != ".gpkg":  # a file is a layer
        return next(iter(layers))
    if name is not None:
        lookup(layers, name, f"layer of {path} for {key}:")
        return name
    held = [layer for layer, kind in layers.items() if not re.search("Point|Line", kind)]
    if len(held) == 1:
        return held[0]
    if not held:
        kinds = ", ".join(f"{layer} ({kind})" for layer, kind in layers.items())
        raise InputError(f"{path}: has no layer of polygons, but {kinds or 'none at all'}.")
    raise InputError(f"{path}: has {len(held)} layers of polygons, {', '.join(held)}. Set {key} in the card's layout.")


def _require_format(path: Path, suffix: str) -> None:
    """Raise if the content of a file is not of the format of its suffix, or leads elsewhere.

    Raises:
        InputError: Says what was found.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if suffix == ".geojson":
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if not (text.startswith(b"{") and IS_GEOJSON.search(text)):
            raise _not_of(path, "a GeoJSON (a FeatureCollection of polygons)", head)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if LINKED_CRS.search(content):
                raise InputError(f"{path}: names its CRS by an address. Save it with a name such as EPSG:32636.")
    elif suffix == ".shp" and not head.startswith(b"\x00\x00\x27\x0a"):
        raise _not_of(path, "a shapefile", head)
    elif suffix == ".gpkg":
        if not head.startswith(b"SQLite format 3\x00"):
            raise _not_of(path, "a GeoPackage", head)
        _require_plain_tables(path)


def _not_of(path: Path, expected: str, head: bytes) -> InputError:
    if not head.strip():
        return InputError(f"{path}: is empty, expected {expected}.")
    shown = head[:40].decode("ascii", "backslashreplace").split("\n")[0]
    return InputError(f"{path}: is not {expected}, it begins with {shown!r}. Export it again from your GIS.")


def _require_plain_tables(path: Path) -> None:
    """Raise if a GeoPackage has virtual tables other than spatial indices, which might read other places."""
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            rows = database.execute("SELECT name, sql FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL%'").fetchall()
        finally:
            database.close()
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter for a message that quotes damaged text
        raise unreadable(path, ".gpkg", error) from error
    for name, statement in rows:
        if not re.search(r"USING\s+(rtree|fts\d)\b", statement, re.IGNORECASE):
            raise InputError(f"{path}: its table {name} is virtual and may read other files. Export the layer again.")


_LOCK = threading.Lock()
_CONVERTED: dict[tuple[Any, ...], Path] = {}
"""Files with a spatial index, by path, size, time and attribute of the GeoJSON they were made of."""


def _indexed(layer: Layer) -> Layer:
    """Return a layer of a GeoJSON from a temporary GeoPackage, as GDAL reads all of a GeoJSON for each window."""
    found = layer.path.stat()
    key = (layer.path.absolute(), found.st_size, found.st_mtime_ns, layer.column)
    with _LOCK:
        if key not in _CONVERTED:
            folder = Path(tempfile.mkdtemp(prefix="mlla_seg_polygons_"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            _convert(layer, folder / "polygons.gpkg")
            _CONVERTED[key] = folder / "polygons.gpkg"
    return replace(layer, source=_CONVERTED[key], name="polygons", column=layer.column and "value")


def _convert(layer: Layer, target: Path) -> None:
    """Write the geometries of a layer, and its attribute as ``value``."""
    import pyogrio

    for first in range(0, max(layer.count, 1), BATCH):
        part = layer.read(first=first)
        held = np.array(part.values)
        if held.dtype.kind not in "biuf":  # texts, lists or none at all
            held = np.array([None if value is None else str(value) for value in part.values], object)
        pyogrio.raw.write(
            target,
            part.shapes,
            [held] if layer.column else [],
            ["value"] if layer.column else [],
            geometry_type="Unknown",
            crs=layer.crs,
            driver="GPKG",
            layer="polygons",
            append=target.exists(),
        )

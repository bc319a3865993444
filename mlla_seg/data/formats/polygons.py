"""Segmentation maps as polygons, in vector layers for GIS: GeoPackage or GeoJSON."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.errors import InputError, lookup

FORMATS = {"gpkg": "GPKG", "geojson": "GeoJSON"}
"""Suffixes of vector files, and the drivers that write them."""


def require_polygons(format: str) -> None:
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


def write_polygons(
    path: Path, map_path: Path, classes: Sequence[ClassInfo], background: int | None, format: str
) -> int:
    """Write the regions of a segmentation map as polygons with class, id and area, and return their number.

    The map is read row by row; memory grows with the number of polygons. Coordinates are those of the map, or longitude
    and latitude in GeoJSON if the map has a CRS; areas are in square units of the map.

    Args:
        path: Vector file, written in place, so pass a temporary name.
        map_path: Segmentation map written by ``write_map``.
        classes: Names, and ids where they are not the positions.
        background: Index of the class without polygons, if any.
        format: A name in ``FORMATS``.
    """
    import pyogrio
    import shapely
    from rasterio import band
    from rasterio.features import shapes

    # The nodata value is not the id of any class.
    names = {entry.id: entry.name for k, entry in enumerate(classes) if k != background}
    regions, ids = [], []
    with open_rasters([map_path]) as raster:
        dataset = raster.datasets[0]
        crs = dataset.crs.to_wkt() if dataset.crs else None
        for region, value in shapes(band(dataset, 1), transform=dataset.transform):
            if value in names:
                regions.append(shapely.geometry.shape(region))
                ids.append(int(value))
    geometry = np.array(regions, dtype=object)
    fields = {
        "class": np.array([names[value] for value in ids], dtype=object),
        "id": np.array(ids, dtype=np.int32),
        "area": shapely.area(geometry).astype(np.float64),
    }
    options = {"RFC7946": "YES"} if format == "geojson" and crs else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")  # the scene may have none
        pyogrio.raw.write(
            path,
            geometry=shapely.to_wkb(geometry),
            field_data=list(fields.values()),
            fields=list(fields),
            geometry_type="Polygon",
            crs=crs,
            driver=FORMATS[format],
            layer="classes",
            layer_options=options,
        )
    return len(ids)

"""Small valid vector files with the labels of a scene, for mutations.py."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import rasterio
import yaml
from mutation_kind import Kind, write_text
from rasterio.transform import from_origin

from mlla_seg.data.card import load_card
from mlla_seg.data.formats.vector_sources import DRIVERS, open_layer
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.polygon_labels import survey
from mlla_seg.data.reading import open_case
from mlla_seg.data.shipped import shipped

SIZE = 24
CRS = "EPSG:32636"
LAYOUT = {"format": "files", "tree": "scene.tif", "patterns": [r"(?P<case>scene)\.tif"], "attribute": "kind"}


def write_scene(folder: Path, file: str) -> None:
    """Write a scene, a card, and polygons in another CRS with the names of their classes."""
    import pyogrio
    import shapely

    card = yaml.safe_load((shipped("datasets") / "image_folder" / "dataset.yaml").read_text())
    write_text({**card, "layout": {**LAYOUT, "mask": file}})(folder / "dataset.yaml")
    place = from_origin(450_000, 35_000, 1, 1)
    with rasterio.open(folder / "scene.tif", "w", "GTiff", SIZE, SIZE, 3, CRS, place, "uint8") as image:
        image.write(np.full((3, SIZE, SIZE), 7, np.uint8))
    first, second = (shapely.box(450_002 + k, 34_990 - k, 450_010 + k, 34_998 - k) for k in (0, 5))
    shapes = np.array([first, shapely.MultiPolygon([second, shapely.box(450_000, 34_980, 450_001, 34_981)])], object)
    if file.endswith(".shp"):
        shapes = np.array([first, second], object)
    suffix = Path(file).suffix
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2026-01-01T00:00:00.000Z"})  # the same file on every day
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyogrio.raw.write(
            folder / file,
            shapely.to_wkb(shapes),
            [np.array(["object", "background"], object)],
            ["kind"],
            geometry_type="Polygon" if suffix == ".shp" else "Unknown",
            crs=CRS,
            driver=DRIVERS[suffix],
        )


def label_kind(file: str, changed: str = "") -> Kind:
    """Return a kind of vector file, which is read whole and by windows as the labels of a scene."""

    def read(folder: Path) -> None:
        card = load_card(folder / "dataset.yaml")
        (case,) = find_cases(card, folder)
        survey(open_layer(folder / file, card.layout.layer, card.layout.attribute))
        with open_case(card, case) as source:
            for piece in source.pieces:
                _ = piece.image, piece.labels

    changed = changed or file
    return Kind(Path(changed).suffix[1:], changed, lambda folder: write_scene(folder, file), read)


LABELS = (
    label_kind("labels.gpkg"),
    label_kind("labels.geojson"),
    label_kind("labels.shp"),
    label_kind("labels.shp", "labels.dbf"),
)

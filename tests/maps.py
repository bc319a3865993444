"""Maps of small scenes, and networks that need no training."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.inference.scenes import MapOptions, predict_scene, scene_job

CLASSES = [
    {"name": "ground", "colour": [120, 110, 90], "id": 0},
    {"name": "roof", "colour": [220, 60, 40], "id": 1},
    {"name": "water", "colour": [40, 60, 220], "id": 2},
]


def spec_of(count, **changes):
    channels = [f"band {k}" for k in range(count)]
    return DataSpec.from_dict({"channels": channels, "classes": CLASSES, "patch_size": [64, 64], **changes})


def make_map(network, spec, source, output, weights="", **options):
    sources = source if isinstance(source, list) else [source]
    job = scene_job({"weights": weights}, spec, sources, chosen := MapOptions(**options))
    predict_scene(TorchEngine(network), spec, sources, output, chosen, job)


def write_polygons(path, shapes, fields, crs, layer="labels", kind="Unknown"):
    """Write geometries with attributes as a vector file; the driver follows from the suffix."""
    import pyogrio
    import shapely

    columns = [np.asarray(values, object if isinstance(values[0], str) else None) for values in fields.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a CRS
        pyogrio.raw.write(
            path,
            shapely.to_wkb(np.asarray(shapes, object)),
            columns,
            list(fields),
            geometry_type="Polygon" if path.suffix == ".shp" else kind,
            crs=crs,
            layer=None if path.suffix == ".shp" else layer,
            driver={".gpkg": "GPKG", ".geojson": "GeoJSON", ".shp": "ESRI Shapefile"}[path.suffix],
            append=path.exists(),
        )
    return path


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


class Bright(nn.Module):
    """A pixel-wise network: three classes by the mean of the bands."""

    def forward(self, x):
        x = x.mean(dim=1, keepdim=True)
        return torch.cat((-(x - 40).abs(), -(x - 120).abs(), -(x - 200).abs()), dim=1)


class Killed(Exception):
    pass


class Mortal(Bright):
    """Raises after some batches."""

    def __init__(self, lives):
        super().__init__()
        self.lives = lives

    def forward(self, x):
        self.lives -= 1
        if self.lives < 0:
            raise Killed
        return super().forward(x)

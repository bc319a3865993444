"""Scenes of any size: the same map for any stripes, in the same place, and after being killed half-way."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine
from torch import nn

from layouts import PLACE, write_scene
from mlla_seg.data.maps import NODATA
from mlla_seg.data.rasters import open_rasters
from mlla_seg.errors import InputError
from mlla_seg.models import create_model
from mlla_seg.scenes import MapOptions, predict_scene

CLASSES = [
    {"name": "ground", "colour": [120, 110, 90], "id": 0},
    {"name": "roof", "colour": [220, 60, 40], "id": 1},
    {"name": "water", "colour": [40, 60, 220], "id": 2},
]


def spec_of(bands, **changes):
    channels = [f"band {k}" for k in range(bands)]
    return {"channels": channels, "classes": CLASSES, "resize": None, "window": [64, 64], **changes}


def make_map(network, spec, source, output, job="", **options):
    predict_scene(
        network, spec, [source] if not isinstance(source, list) else source, output, MapOptions(**options), job=job
    )


def read(path):
    with open_rasters([path]) as raster:
        return raster.read(0, 0, *raster.shape)


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


class Bright(nn.Module):
    """Three classes by the mean of the bands, the sort of network that sees a single pixel."""

    def forward(self, x):
        x = x.mean(dim=1, keepdim=True)
        return torch.cat((-(x - 40).abs(), -(x - 120).abs(), -(x - 200).abs()), dim=1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    normalisation = {"mean": 120.0, "std": 60.0}
    return create_model("mlla_test", "unet", num_classes=3, in_channels=3, normalisation=normalisation).eval()


def test_map_lies_where_the_scene_does_and_shows_its_classes(tmp_path):
    source = write_scene(tmp_path / "scene.tif", noise(3, 700, 900))
    make_map(Bright(), spec_of(3), source, tmp_path / "map.tif", stripe=256)
    with rasterio.open(tmp_path / "map.tif") as found:
        assert (found.crs, found.transform, found.shape) == (rasterio.crs.CRS.from_epsg(32636), PLACE, (700, 900))
        assert (found.count, found.dtypes[0], found.nodata) == (1, "uint8", NODATA)
        assert found.block_shapes == [(512, 512)]
        assert found.compression == rasterio.enums.Compression.deflate
        assert found.overviews(1) == [2]
        assert [found.colormap(1)[k][:3] for k in range(3)] == [tuple(entry["colour"]) for entry in CLASSES]
        assert found.tags(1)["class_1"] == "roof"
        labels = found.read(1)
    np.testing.assert_array_equal(labels, Bright()(torch.from_numpy(read(source))[None]).argmax(1)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "scene.tif"]


def test_cloud_optimised_map_has_the_same_labels(tmp_path):
    source = write_scene(tmp_path / "scene.tif", noise(3, 600, 600))
    for cog in (False, True):
        make_map(Bright(), spec_of(3), source, tmp_path / f"{cog}.tif", cog=cog)
    with rasterio.open(tmp_path / "False.tif") as plain, rasterio.open(tmp_path / "True.tif") as found:
        np.testing.assert_array_equal(found.read(), plain.read())
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.colormap(1)[1][:3] == (220, 60, 40)
        assert found.overviews(1) == [2]


class Killed(Exception):
    pass


class Mortal(Bright):
    """Dies after some batches."""

    def __init__(self, lives):
        super().__init__()
        self.lives = lives

    def forward(self, x):
        self.lives -= 1
        if self.lives < 0:
            raise Killed
        return super().forward(x)


def test_killed_half_way_it_goes_on_and_ends_with_the_same_bytes(tmp_path, capsys):
    source = write_scene(tmp_path / "scene.tif", noise(3, 300, 500))
    make_map(Bright(), spec_of(3), source, tmp_path / "whole.tif", stripe=128)
    network = Mortal(40)
    with pytest.raises(Killed):
        make_map(network, spec_of(3), source, tmp_path / "map.tif", stripe=128)
    assert not (tmp_path / "map.tif").exists()
    finished = np.load(tmp_path / ".map.tif.partial/done.npy")
    assert finished.tolist() == [9, 9, 6, 0]  # bands of 32 rows, by stripe
    counting = Mortal(10_000)
    make_map(counting, spec_of(3), source, tmp_path / "map.tif", stripe=128)
    fresh = Mortal(10_000)
    make_map(fresh, spec_of(3), source, tmp_path / "again.tif", stripe=128)
    assert counting.lives > fresh.lives  # what was done was not done again
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert not list(tmp_path.glob(".*.partial"))


def test_another_job_starts_anew(tmp_path):
    source = write_scene(tmp_path / "scene.tif", noise(3, 200, 200))
    with pytest.raises(Killed):
        make_map(Mortal(12), spec_of(3), source, tmp_path / "map.tif", stripe=64, job="a")
    counting = Mortal(10_000)
    make_map(counting, spec_of(3), source, tmp_path / "map.tif", stripe=64, job="b")
    fresh = Mortal(10_000)
    make_map(fresh, spec_of(3), source, tmp_path / "fresh.tif", stripe=64)
    assert counting.lives == fresh.lives


@pytest.mark.parametrize("dtype", [np.float64, np.uint16, np.int16, np.uint8])
def test_what_is_missing_comes_out_as_nodata_in_every_type(tmp_path, dtype):
    array = noise(2, 90, 70).astype(dtype) + 1
    gap = np.nan if dtype == np.float64 else 0
    array[1, 10:20, 30:40] = gap
    nodata = {} if dtype == np.float64 else {"nodata": 0}
    source = write_scene(tmp_path / "scene.tif", array, **nodata)
    for block in (32, 1000):
        make_map(Bright(), spec_of(2, window=[32, 32]), source, tmp_path / f"{block}.tif", stripe=block)
    with rasterio.open(tmp_path / "32.tif") as small, rasterio.open(tmp_path / "1000.tif") as large:
        labels = large.read(1)
        np.testing.assert_array_equal(small.read(1), labels)
    expected = np.zeros((90, 70), bool)
    expected[10:20, 30:40] = True
    np.testing.assert_array_equal(labels == NODATA, expected)
    assert (labels[~expected] < 3).all()


@pytest.mark.parametrize(("height", "width"), [(20, 30), (1, 1), (64, 200)])
def test_scene_smaller_than_a_window(tmp_path, network, height, width):
    source = write_scene(tmp_path / "scene.tif", noise(3, height, width))
    make_map(network, spec_of(3), source, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as found:
        assert found.shape == (height, width)
        assert found.read(1).max() < 3


@pytest.mark.filterwarnings("ignore:.*no geotransform")
def test_rotated_and_unreferenced_scenes_keep_what_they_say(tmp_path):
    rotated = PLACE * Affine.rotation(30)
    source = write_scene(tmp_path / "rotated.tif", noise(1, 40, 50), transform=rotated)
    make_map(Bright(), spec_of(1), source, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as found:
        assert found.transform.almost_equals(rotated)
    source = write_scene(tmp_path / "plain.tif", noise(12, 40, 50), transform=None, crs=None)
    make_map(Bright(), spec_of(12), source, tmp_path / "map.tif")
    with open_rasters([tmp_path / "map.tif"]) as found:
        assert found.datasets[0].crs is None
        assert found.ground is None


def test_scenes_that_cannot_be_used_are_named(tmp_path):
    source = write_scene(
        tmp_path / "scene.tif", noise(3, 300, 300), tiled=True, blockxsize=64, blockysize=64, compress="deflate"
    )
    with pytest.raises(InputError, match=r"scene\.tif: has 3 bands; this network was trained on 4 \(band 0, band 1"):
        make_map(Bright(), spec_of(4), source, tmp_path / "map.tif")
    with pytest.raises(InputError, match=r"--overlap is a fraction .* got 1"):
        make_map(Bright(), spec_of(3), source, tmp_path / "map.tif", overlap=1)
    data = bytearray(source.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = b"x" * 2000
    source.write_bytes(data)
    with pytest.raises(InputError, match=r"scene\.tif: cannot be read as \.tif \(.*Is it complete\? Copy or"):
        make_map(Bright(), spec_of(3), source, tmp_path / "map.tif")
    (tmp_path / "text.tif").write_text("hello")
    with pytest.raises(InputError, match=r"text\.tif: cannot be read as \.tif"):
        make_map(Bright(), spec_of(3), tmp_path / "text.tif", tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()

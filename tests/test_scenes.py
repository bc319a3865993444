"""Scenes of any size: the same map for any block, in the same place, and after being killed half-way."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine
from torch import nn

from layouts import PLACE, write_scene
from mlla_seg.data.rasters import NODATA, open_raster, read_part
from mlla_seg.errors import InputError
from mlla_seg.inference import predict_logits
from mlla_seg.models import create_model
from mlla_seg.scenes import block_logits, fill_gaps, predict_scene, window_starts

CLASSES = [
    {"name": "ground", "colour": [120, 110, 90], "id": 0},
    {"name": "roof", "colour": [220, 60, 40], "id": 1},
    {"name": "water", "colour": [40, 60, 220], "id": 2},
]


def spec_of(bands, **changes):
    channels = [f"band {k}" for k in range(bands)]
    return {"channels": channels, "classes": CLASSES, "resize": None, "window": [64, 64], **changes}


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


@pytest.mark.parametrize(
    ("size", "window", "overlap", "starts"),
    [
        (100, 40, 0.5, [0, 20, 40, 60]),
        (101, 40, 0.5, [0, 20, 40, 60, 61]),
        (40, 40, 0.5, [0]),
        (41, 40, 0.0, [0, 1]),
        (80, 40, 0.0, [0, 40]),
    ],
)
def test_windows_cover_the_scene_and_stay_in_it(size, window, overlap, starts):
    assert window_starts(size, window, overlap) == starts


@pytest.mark.parametrize("block", [50, 64, 97, 1000])
def test_blocks_change_nothing_and_the_map_is_that_of_the_scene_in_memory(network, block):
    scene = torch.from_numpy(noise(3, 150, 213)).float()
    with torch.inference_mode():
        whole = predict_logits(network, scene[None], window=(64, 96))[0]
    found = torch.full_like(whole, torch.nan)
    for top in range(0, 150, block):
        for left in range(0, 213, block):
            place = (top, left, min(block, 150 - top), min(block, 213 - left))
            part = block_logits(
                network,
                lambda t, c, h, w: scene[:, t : t + h, c : c + w],
                (150, 213),
                place,
                (64, 96),
                0.5,
                "cpu",
                3,
                {"resize": None},
            )
            found[:, top : top + place[2], left : left + place[3]] = part
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=0)
    assert torch.equal(found.argmax(0), whole.argmax(0))


def test_map_lies_where_the_scene_does_and_shows_its_classes(tmp_path):
    source = write_scene(tmp_path / "scene.tif", noise(3, 700, 900))
    predict_scene(Bright(), spec_of(3), source, tmp_path / "map.tif", block=256)
    with rasterio.open(tmp_path / "map.tif") as found:
        assert (found.crs, found.transform, found.shape) == (rasterio.crs.CRS.from_epsg(32636), PLACE, (700, 900))
        assert (found.count, found.dtypes[0], found.nodata) == (1, "uint8", NODATA)
        assert found.block_shapes == [(512, 512)]
        assert found.compression == rasterio.enums.Compression.deflate
        assert found.overviews(1) == [2]
        assert [found.colormap(1)[k][:3] for k in range(3)] == [tuple(entry["colour"]) for entry in CLASSES]
        assert found.tags(1)["class_1"] == "roof"
        labels = found.read(1)
    with open_raster(source) as dataset:
        image = torch.from_numpy(read_part(dataset, 0, 0, 700, 900))
    np.testing.assert_array_equal(labels, Bright()(image[None]).argmax(1)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "scene.tif"]


def test_cloud_optimised_map_has_the_same_labels(tmp_path):
    source = write_scene(tmp_path / "scene.tif", noise(3, 600, 600))
    for cog in (False, True):
        predict_scene(Bright(), spec_of(3), source, tmp_path / f"{cog}.tif", cog=cog)
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
    predict_scene(Bright(), spec_of(3), source, tmp_path / "whole.tif", block=128)
    network = Mortal(40)
    with pytest.raises(Killed):
        predict_scene(network, spec_of(3), source, tmp_path / "map.tif", block=128)
    assert not (tmp_path / "map.tif").exists()
    finished = np.load(tmp_path / ".map.tif.partial/done.npy")
    assert 0 < finished.sum() < len(finished)
    counting = Mortal(10_000)
    predict_scene(counting, spec_of(3), source, tmp_path / "map.tif", block=128)
    fresh = Mortal(10_000)
    predict_scene(fresh, spec_of(3), source, tmp_path / "again.tif", block=128)
    assert counting.lives > fresh.lives  # what was done was not done again
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert not list(tmp_path.glob(".*.partial"))


def test_another_job_starts_anew(tmp_path):
    source = write_scene(tmp_path / "scene.tif", noise(3, 200, 200))
    with pytest.raises(Killed):
        predict_scene(Mortal(12), spec_of(3), source, tmp_path / "map.tif", block=64, job="a")
    counting = Mortal(10_000)
    predict_scene(counting, spec_of(3), source, tmp_path / "map.tif", block=64, job="b")
    fresh = Mortal(10_000)
    predict_scene(fresh, spec_of(3), source, tmp_path / "fresh.tif", block=64)
    assert counting.lives == fresh.lives


@pytest.mark.parametrize("dtype", [np.float64, np.uint16, np.int16, np.uint8])
def test_what_is_missing_comes_out_as_nodata_in_every_type(tmp_path, dtype):
    array = noise(2, 90, 70).astype(dtype) + 1
    gap = np.nan if dtype == np.float64 else 0
    array[1, 10:20, 30:40] = gap
    nodata = {} if dtype == np.float64 else {"nodata": 0}
    source = write_scene(tmp_path / "scene.tif", array, **nodata)
    for block in (32, 1000):
        predict_scene(Bright(), spec_of(2, window=[32, 32]), source, tmp_path / f"{block}.tif", block=block)
    with rasterio.open(tmp_path / "32.tif") as small, rasterio.open(tmp_path / "1000.tif") as large:
        labels = large.read(1)
        np.testing.assert_array_equal(small.read(1), labels)
    expected = np.zeros((90, 70), bool)
    expected[10:20, 30:40] = True
    np.testing.assert_array_equal(labels == NODATA, expected)
    assert (labels[~expected] < 3).all()


def test_gaps_are_filled_with_the_mean_of_their_band():
    image = torch.tensor([[[1.0, 3.0, torch.nan]], [[torch.nan] * 3]])
    assert fill_gaps(image).tolist() == [[[1, 3, 2]], [[0, 0, 0]]]
    whole = torch.ones(1, 2, 2)
    assert fill_gaps(whole) is whole


@pytest.mark.parametrize(("height", "width"), [(20, 30), (1, 1), (64, 200)])
def test_scene_smaller_than_a_window(tmp_path, network, height, width):
    source = write_scene(tmp_path / "scene.tif", noise(3, height, width))
    predict_scene(network, spec_of(3), source, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as found:
        assert found.shape == (height, width)
        assert found.read(1).max() < 3


@pytest.mark.filterwarnings("ignore:.*no geotransform")
def test_rotated_and_unreferenced_scenes_keep_what_they_say(tmp_path):
    rotated = PLACE * Affine.rotation(30)
    source = write_scene(tmp_path / "rotated.tif", noise(1, 40, 50), transform=rotated)
    predict_scene(Bright(), spec_of(1), source, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as found:
        assert found.transform.almost_equals(rotated)
    source = write_scene(tmp_path / "plain.tif", noise(12, 40, 50), transform=None, crs=None)
    predict_scene(Bright(), spec_of(12), source, tmp_path / "map.tif")
    with open_raster(tmp_path / "map.tif") as found:
        assert found.crs is None
        assert found.transform == Affine.identity()


def test_scenes_that_cannot_be_used_are_named(tmp_path):
    source = write_scene(
        tmp_path / "scene.tif", noise(3, 300, 300), tiled=True, blockxsize=64, blockysize=64, compress="deflate"
    )
    with pytest.raises(InputError, match=r"scene\.tif: has 3 bands; this network was trained on 4 \(band 0, band 1"):
        predict_scene(Bright(), spec_of(4), source, tmp_path / "map.tif")
    with pytest.raises(InputError, match=r"--overlap is a fraction .* got 1"):
        predict_scene(Bright(), spec_of(3), source, tmp_path / "map.tif", overlap=1)
    data = bytearray(source.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = b"x" * 2000
    source.write_bytes(data)
    with pytest.raises(InputError, match=r"scene\.tif: cannot be read as \.tif \(.*Is it complete\? Copy or"):
        predict_scene(Bright(), spec_of(3), source, tmp_path / "map.tif")
    (tmp_path / "text.tif").write_text("hello")
    with pytest.raises(InputError, match=r"text\.tif: cannot be read as \.tif"):
        predict_scene(Bright(), spec_of(3), tmp_path / "text.tif", tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()

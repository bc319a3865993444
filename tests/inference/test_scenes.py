"""Scenes of any size: maps independent of the stripes, correctly georeferenced, resumed after an interruption."""

from __future__ import annotations

import re

import numpy as np
import pytest
import rasterio
import torch
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

from layouts import PLACE, write_scene
from maps import CLASSES, Bright, Killed, Mortal, make_map, noise, spec_of
from mlla_seg.data.formats.geotiff import Raster, open_rasters
from mlla_seg.data.formats.geotiff_masks import FULL, NODATA
from mlla_seg.errors import InputError
from mlla_seg.inference.cases import TorchEngine, predict_case
from mlla_seg.inference.scenes import MapOptions, predict_scene
from mlla_seg.inference.steps import image_logits
from mlla_seg.models import create_model


def read(path):
    with open_rasters([path]) as raster:
        return raster.read(0, 0, *raster.shape)


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


def test_killed_half_way_it_goes_on_and_ends_with_the_same_bytes(tmp_path, capsys):
    source = write_scene(tmp_path / "scene.tif", noise(3, 300, 500))
    make_map(Bright(), spec_of(3), source, tmp_path / "whole.tif", stripe=128)
    network = Mortal(40)
    with pytest.raises(Killed):
        make_map(network, spec_of(3), source, tmp_path / "map.tif", stripe=128)
    assert not (tmp_path / "map.tif").exists()
    finished = [int(np.load(path)[0]) for path in sorted((tmp_path / ".map.tif.partial").glob("*.done.npy"))]
    assert np.reshape(finished, (4, 9)).sum(axis=1).tolist() == [9, 9, 6, 0]  # bands of 32 rows, by stripe
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
        make_map(Mortal(12), spec_of(3), source, tmp_path / "map.tif", stripe=64, weights="a")
    counting = Mortal(10_000)
    make_map(counting, spec_of(3), source, tmp_path / "map.tif", stripe=64, weights="b")
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
        make_map(Bright(), spec_of(2, patch_size=[32, 32]), source, tmp_path / f"{block}.tif", stripe=block)
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
    with pytest.raises(InputError, match=r"scene\.tif: has 3 bands; this network expects 4 \(band 0, band 1"):
        make_map(Bright(), spec_of(4), source, tmp_path / "map.tif")
    with pytest.raises(InputError, match=r"--overlap must be a fraction .* got 1"):
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


def test_probabilities_lie_beside_the_map_and_agree_with_it(tmp_path, network):
    array = noise(3, 130, 150, dtype=np.uint16) + 1
    array[:, :20, :30] = 0
    source = write_scene(tmp_path / "scene.tif", array, nodata=0)
    for stripe in (50, 1000):
        make_map(network, spec_of(3), source, tmp_path / f"{stripe}.tif", stripe=stripe, probabilities=True)
    with rasterio.open(tmp_path / "50.probabilities.tif") as found, rasterio.open(tmp_path / "50.tif") as labels:
        assert (found.crs, found.transform, found.count) == (labels.crs, labels.transform, 3)
        assert found.descriptions == ("ground", "roof", "water")
        assert (found.nodata, found.scales) == (NODATA, (1 / FULL,) * 3)
        assert "alpha" not in [colour.name for colour in found.colorinterp]
        stored, classes = found.read().astype(float), labels.read(1)
    present = classes != NODATA
    assert (stored[:, ~present] == NODATA).all()
    assert np.abs(stored[:, present].sum(axis=0) - FULL).max() <= 1.5  # of rounding
    chosen = np.take_along_axis(stored, np.where(present, classes, 0)[None].astype(int), axis=0)[0]
    assert (chosen[present] >= stored.max(axis=0)[present]).all()
    image = torch.from_numpy(read(source))
    with torch.inference_mode():
        expected = image_logits(TorchEngine(network), image[None], patch_size=(64, 64))[0].softmax(dim=0).numpy()
    assert np.abs(stored[:, present] / FULL - expected[:, present]).max() <= 0.51 / FULL + 1e-4
    with rasterio.open(tmp_path / "1000.probabilities.tif") as whole:
        assert np.abs(whole.read().astype(int) - stored).max() <= 1
    assert sorted(path.name for path in tmp_path.glob("50*")) == ["50.probabilities.tif", "50.tif"]


def test_bands_of_several_files_and_grids_make_one_scene(tmp_path):
    image, height = noise(3, 90, 100), noise(1, 90, 100, dtype=np.float32)
    wider = np.pad(height, ((0, 0), (4, 4), (4, 4)), constant_values=7)
    parts = [
        write_scene(tmp_path / "image.tif", image),
        write_scene(tmp_path / "dsm.tif", wider, transform=PLACE * Affine.translation(-4, -4)),
    ]
    spec = spec_of(2, channels=["height", "green"], bands=["red", "green", "blue", "height"])
    make_map(Bright(), spec, parts, tmp_path / "map.tif")
    together = write_scene(tmp_path / "together.tif", np.concatenate([height, image[1:2]]).astype(np.float32))
    make_map(Bright(), spec, together, tmp_path / "expected.tif")  # just what the network sees
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), read(tmp_path / "expected.tif"))
    with pytest.raises(
        InputError, match=r"has 3 bands; .* expects 2 \(height, green\) \(files with 4: red, green, blue"
    ):
        make_map(Bright(), spec, parts[0], tmp_path / "no.tif")


def test_bands_in_another_order_are_put_right(tmp_path):
    array = noise(2, 40, 40)
    spec = spec_of(2, channels=["b", "a"], bands=["a", "b"])
    source = write_scene(tmp_path / "scene.tif", array)

    class First(Bright):
        def forward(self, x):
            return super().forward(x[:, :1])

    make_map(First(), spec, source, tmp_path / "map.tif")
    expected = First()(torch.from_numpy(array[[1, 0]]).float()[None]).argmax(1)[0]
    np.testing.assert_array_equal(read(tmp_path / "map.tif")[0], expected)


def test_transparent_borders_are_nodata(tmp_path):
    array = noise(4, 50, 60)
    array[3] = 255
    array[3, :, :7] = 0
    source = write_scene(tmp_path / "rgba.tif", array)
    make_map(Bright(), spec_of(3), source, tmp_path / "map.tif")
    labels = read(tmp_path / "map.tif")[0]
    assert np.isnan(labels[:, :7]).all()
    np.testing.assert_array_equal(
        labels[:, 7:], Bright()(torch.from_numpy(array[None, :3]).float()).argmax(1)[0, :, 7:]
    )


def test_virtual_mosaic_is_a_scene(tmp_path):
    array = noise(3, 80, 120)
    for k, name in enumerate(("left", "right")):
        place = PLACE * Affine.translation(60 * k, 0)
        write_scene(tmp_path / f"{name}.tif", array[:, :, 60 * k : 60 * k + 60], transform=place)
    sources = "".join(
        f"<SimpleSource><SourceFilename relativeToVRT='1'>{name}.tif</SourceFilename><SourceBand>{{band}}</SourceBand>"
        f"<SrcRect xOff='0' yOff='0' xSize='60' ySize='80'/><DstRect xOff='{60 * k}' yOff='0' xSize='60' ySize='80'/>"
        "</SimpleSource>"
        for k, name in enumerate(("left", "right"))
    )
    bands = "".join(
        f"<VRTRasterBand dataType='Byte' band='{b}'>{sources.format(band=b)}</VRTRasterBand>" for b in (1, 2, 3)
    )
    place = ", ".join(map(str, PLACE.to_gdal()))
    (tmp_path / "mosaic.vrt").write_text(
        f"<VRTDataset rasterXSize='120' rasterYSize='80'><SRS>EPSG:32636</SRS><GeoTransform>{place}</GeoTransform>"
        f"{bands}</VRTDataset>"
    )
    make_map(Bright(), spec_of(3), tmp_path / "mosaic.vrt", tmp_path / "map.tif")
    expected = Bright()(torch.from_numpy(array).float()[None]).argmax(1)[0]
    np.testing.assert_array_equal(read(tmp_path / "map.tif")[0], expected)


def test_ids_above_bytes_are_kept(tmp_path):
    classes = [{**entry, "id": value} for entry, value in zip(CLASSES, (255, 7, 1000), strict=True)]
    array = noise(3, 40, 40)
    source = write_scene(tmp_path / "scene.tif", array)
    make_map(Bright(), spec_of(3, classes=classes), source, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as found:
        assert (found.dtypes[0], found.nodata) == ("uint16", 65535)
        assert found.colormap(1)[1000][:3] == (40, 60, 220)
        labels = Bright()(torch.from_numpy(array).float()[None]).argmax(1)[0].numpy()
        np.testing.assert_array_equal(found.read(1), np.array([255, 7, 1000])[labels])


def test_no_more_than_a_stripe_is_read_at_once(tmp_path, monkeypatch):
    source = write_scene(tmp_path / "scene.tif", noise(3, 400, 500))
    largest = [0]
    plain = Raster.read

    def counted(self, top, left, height, width, raw=False):
        largest[0] = max(largest[0], height * width)
        return plain(self, top, left, height, width, raw)

    monkeypatch.setattr(Raster, "read", counted)
    make_map(Bright(), spec_of(3), source, tmp_path / "map.tif", stripe=100)
    assert 64 * 100 <= largest[0] <= 64 * (100 + 2 * 64)


def test_a_network_that_sees_half_the_resolution_sees_it_in_a_map_as_in_the_test(tmp_path, network):
    source = write_scene(tmp_path / "scene.tif", noise(3, 190, 170))
    spec = spec_of(3, resize=0.5, patch_size=[32, 48])
    make_map(network, spec, source, tmp_path / "map.tif")
    image = torch.from_numpy(read(source))[None]
    labels = predict_case(network, image, spec.view)[0]
    np.testing.assert_array_equal(read(tmp_path / "map.tif")[0], labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 0.95}, "--overlap must be a fraction of the window from 0 to 0.9, got 0.95"),
        ({"window": 0}, "--window must be 1 or more pixels, got 0"),
        ({"blend": "linear"}, "Unknown blend 'linear'"),
        ({"polygons": "shp"}, "Unknown format of polygons 'shp'"),
        ({"polygons": "gpkg", "min_area_m2": 0}, "--min_area_m2 must be more than 0, got 0"),
        ({"polygons": "gpkg", "simplify": -1}, "--simplify must be more than 0, got -1"),
        ({"min_area_m2": 10}, "--min_area_m2 is about polygons: add --polygons gpkg"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        MapOptions(**options)


def test_windows_smaller_than_the_training_samples_are_refused(tmp_path):
    source = write_scene(tmp_path / "scene.tif", noise(3, 90, 90))
    with pytest.raises(InputError, match=r"--window 63: is smaller than the training patches, 64 x 64"):
        make_map(Bright(), spec_of(3), source, tmp_path / "map.tif", window=63)
    assert not list(tmp_path.glob(".*.partial"))
    for window in (64, 80):
        make_map(Bright(), spec_of(3), source, tmp_path / "map.tif", window=window)


def test_bands_and_resolution_are_said_once(tmp_path, capsys):
    array = noise(2, 64, 64)
    paths = [
        write_scene(tmp_path / "x_b.tif", array[:1, ::2, ::2], transform=PLACE * Affine.scale(2)),
        write_scene(tmp_path / "x_a.tif", array[1:]),
    ]
    said = set()
    for name in ("one", "two"):
        spec = spec_of(2, channels=["a", "b"])
        predict_scene(TorchEngine(Bright()), spec, paths, tmp_path / f"{name}.tif", MapOptions(), said=said)
    told = capsys.readouterr().err
    assert told.count("note: x_b.tif: bands by name: a = x_a.tif, b = x_b.tif (numbers 2, 1).") == 1
    assert told.count("1 of its files are warped to the pixels of x_a.tif") == 1
    with rasterio.open(tmp_path / "two.tif") as found:
        assert (found.shape, found.transform) == ((64, 64), PLACE)


def test_control_points_go_into_the_map(tmp_path):
    points = [GroundControlPoint(row, column, *(PLACE * (column, row))) for row in (0, 64) for column in (0, 64)]
    source = write_scene(tmp_path / "scene.tif", noise(3, 64, 64), transform=None, gcps=points)
    make_map(Bright(), spec_of(3), source, tmp_path / "map.tif", probabilities=True)
    for name in ("map.tif", "map.probabilities.tif"):
        with rasterio.open(tmp_path / name) as found:
            assert [(p.row, p.col, p.x, p.y) for p in found.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in points]
            assert found.gcps[1] == rasterio.crs.CRS.from_epsg(32636)

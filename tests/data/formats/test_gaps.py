"""Pixels without data: one rule for values, alpha and masks, in rasters and photos."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from layouts import PLACE, write_scene
from mlla_seg.data.formats.bands import Wanted
from mlla_seg.data.formats.gaps import Gaps
from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.data.formats.registry import read_channels, read_mask, write_mask
from mlla_seg.errors import InputError
from samples import classes_of

RGB = Wanted(("red", "green", "blue"))


def colours(nodata):
    """Colours with a border without data, and a square where only blue has the value."""
    array = np.random.default_rng(0).integers(10, 200, (3, 30, 30)).astype(np.uint8)
    array[:, :4] = nodata
    array[2, 10:20, 10:20] = nodata
    return array


def gaps(*paths, wanted=RGB):
    """Return where some band has no data."""
    with open_rasters(paths, wanted) as raster:
        return np.isnan(raster.read_seen(0, 0, *raster.shape)).any(axis=0)


BORDER = np.arange(30)[:, None].repeat(30, axis=1) < 4
SQUARE = BORDER.copy()
SQUARE[10:20, 10:20] = True


@pytest.mark.parametrize("nodata", [0, 255])
def test_a_colour_with_one_band_of_the_value_is_data_as_for_rasterio(tmp_path, nodata):
    path = write_scene(tmp_path / "a.tif", colours(nodata), nodata=nodata)
    found = gaps(path)
    np.testing.assert_array_equal(found, BORDER)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(found, file.dataset_mask() == 0)


def test_other_rasters_need_one_band_only(tmp_path):
    path = write_scene(tmp_path / "a.tif", colours(0).astype(np.float32), nodata=0)
    np.testing.assert_array_equal(gaps(path), SQUARE)


@pytest.mark.parametrize(("rule", "expected"), [("any", SQUARE), ("all", BORDER)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_card_may_set_the_rule(tmp_path, rule, expected, dtype):
    path = write_scene(tmp_path / "a.tif", colours(0).astype(dtype), nodata=0)
    np.testing.assert_array_equal(gaps(path, wanted=Wanted(RGB.channels, gaps=Gaps(rule=rule))), expected)


def test_bands_in_files_of_their_own_follow_the_rule_together(tmp_path):
    paths = [write_scene(tmp_path / f"{k}.tif", colours(0)[k : k + 1], nodata=0) for k in range(3)]
    np.testing.assert_array_equal(gaps(*paths), SQUARE)
    np.testing.assert_array_equal(gaps(*paths, wanted=Wanted(RGB.channels, gaps=Gaps(rule="all"))), BORDER)


@pytest.mark.parametrize("tagged", [True, False])
def test_the_rule_holds_for_warped_files(tmp_path, tagged):
    first = write_scene(tmp_path / "a.tif", np.full((1, 30, 30), 9, np.float32))
    kind = {"nodata": 0} if tagged else {}
    other = write_scene(tmp_path / "b.tif", colours(0), transform=PLACE * Affine.translation(1, 0), **kind)
    wanted = Wanted(("height", *RGB.channels), gaps=Gaps(None if tagged else 0))
    found = gaps(first, other, wanted=wanted)
    np.testing.assert_array_equal(found[:, 1:], BORDER[:, 1:])
    assert found[:, 0].all()  # outside the other file
    found = gaps(first, other, wanted=Wanted(wanted.channels, gaps=Gaps(None if tagged else 0, "any")))
    np.testing.assert_array_equal(found[:, 1:], SQUARE[:, :-1])


def test_a_value_is_for_files_without_a_tag(tmp_path):
    wanted = Wanted(RGB.channels, gaps=Gaps(7))
    np.testing.assert_array_equal(gaps(write_scene(tmp_path / "a.tif", colours(7)), wanted=wanted), BORDER)
    path = write_scene(tmp_path / "b.tif", colours(7), nodata=3)
    assert not gaps(path, wanted=wanted).any()
    with open_rasters([path], wanted) as raster:
        assert raster.notes == ("it tags 3 as nodata, which is used, and not 7",)
    nan = colours(7).astype(np.float32)
    nan[0, 5, 5] = np.nan
    assert np.argwhere(gaps(write_scene(tmp_path / "c.tif", nan, nodata=np.nan))).tolist() == [[5, 5]]


def test_photos_follow_the_same_rule(tmp_path):
    Image.fromarray(np.moveaxis(colours(7), 0, 2)).save(tmp_path / "a.png")
    picture = read_channels([tmp_path / "a.png"], wanted=Wanted(RGB.channels, gaps=Gaps(7)))
    np.testing.assert_array_equal(np.isnan(picture.array[0]).any(axis=0), BORDER)
    assert picture.gaps
    assert read_channels([tmp_path / "a.png"], wanted=RGB).array.dtype == np.uint8  # as before, without a value


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_of_a_photo_have_no_data(tmp_path, mode):
    array = np.moveaxis(colours(0), 0, 2)
    image = Image.fromarray(array).convert("L" if mode == "LA" else mode)
    if mode in ("P", "RGB"):  # an index or a colour that is tagged as transparent
        tag = image.getpixel((0, 0))
        transparent = (np.array(image) == tag).reshape(30, 30, -1).all(axis=2)
        image.save(tmp_path / "a.png", transparency=tag)
    else:
        transparent = BORDER
        image.putalpha(Image.fromarray(np.where(BORDER, 0, 255).astype(np.uint8)))
        image.save(tmp_path / "a.png")
    wanted = Wanted(("grey",)) if mode == "LA" else RGB
    picture = read_channels([tmp_path / "a.png"], wanted=wanted)
    assert picture.array.shape == (1, len(wanted.channels), 30, 30)
    np.testing.assert_array_equal(np.isnan(picture.array[0]).any(axis=0), transparent)
    assert picture.notes == ("its alpha band is not a channel; it marks where there is data",)


def test_alpha_that_is_expected_is_a_channel_and_said(tmp_path):
    Image.new("RGBA", (5, 4), (1, 2, 3, 0)).save(tmp_path / "a.png")
    picture = read_channels([tmp_path / "a.png"], wanted=Wanted((*RGB.channels, "near infrared")))
    assert picture.array[0, :, 0, 0].tolist() == [1, 2, 3, 0]
    assert picture.notes == ("its alpha band is taken for a channel, as so many are expected",)


def test_a_mask_beside_the_file_says_where_there_is_data(tmp_path):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        path = write_scene(tmp_path / "a.tif", colours(9))
        with rasterio.open(path, "r+") as file:
            file.write_mask(~BORDER)
    assert (tmp_path / "a.tif.msk").exists()
    np.testing.assert_array_equal(gaps(path), BORDER)


def palette_scene(path, **kind):
    indices = np.random.default_rng(0).integers(0, 3, (1, 20, 20)).astype(np.uint8)
    write_scene(path, indices, photometric="palette", **kind)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (9, 8, 7, 255), 1: (200, 0, 0, 255), 2: (0, 200, 0, 255)})
    return path, indices[0]


def test_a_palette_gives_colours_to_a_network_of_colours_and_indices_to_others(tmp_path):
    path, indices = palette_scene(tmp_path / "a.tif")
    table = np.array([[9, 8, 7], [200, 0, 0], [0, 200, 0]])
    with open_rasters([path], RGB) as raster:
        assert (raster.count, raster.dtype) == (3, np.uint8)
        np.testing.assert_array_equal(raster.read_seen(0, 0, 20, 20), np.moveaxis(table[indices], 2, 0))
    with open_rasters([path], Wanted(("ids",))) as raster:
        np.testing.assert_array_equal(raster.read_seen(0, 0, 20, 20)[0], indices)
    np.testing.assert_array_equal(read_mask(path).array[0, 0], indices)
    np.testing.assert_array_equal(read_mask(path, colours=True).array[0], np.moveaxis(table[indices], 2, 0))
    tagged, indices = palette_scene(tmp_path / "b.tif", nodata=0)
    np.testing.assert_array_equal(gaps(tagged), indices == 0)
    np.testing.assert_array_equal(read_mask(tagged).array[0, 0], indices)


def test_masks_of_photos_are_transparent_where_there_is_no_data(tmp_path):
    mask = np.array([[[0, 1], [255, 1]]], np.uint8)
    write_mask(tmp_path / "a.png", mask, classes_of(["ground", "roof"]), tmp_path / "photo.png")
    image = Image.open(tmp_path / "a.png")
    assert (image.mode, image.info["transparency"]) == ("P", 255)
    np.testing.assert_array_equal(np.array(image), mask[0])
    write_mask(tmp_path / "b.png", mask, classes_of(["ground", "roof"], ids=[0, 255]), tmp_path / "photo.png")
    assert np.array(Image.open(tmp_path / "b.png")).tolist() == [[0, 255], [65535, 255]]


def test_a_wrong_number_of_channels_is_still_an_error(tmp_path):
    path = write_scene(tmp_path / "a.tif", np.ones((5, 4, 4), np.uint8))
    with pytest.raises(InputError, match=r"a\.tif: has 5 bands; this network expects 3 \(red, green, blue\)"):
        gaps(path)

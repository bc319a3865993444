"""Bands are matched to channels by name where files have names; a contradiction is an error, never a silent order."""

from __future__ import annotations

import numpy as np
import pytest
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from layouts import PLACE, write_scene
from mlla_seg.data.formats.bands import Wanted, shown_channels, simple
from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.data.formats.registry import read_mask
from mlla_seg.data.polygon_folder import channels_of
from mlla_seg.errors import InputError

RGB = Wanted(("red", "green", "blue"))
PIXELS = np.random.default_rng(0).integers(1, 250, (3, 20, 30)).astype(np.uint8)


def scene(path, array, descriptions=None, colours=None, **profile):
    import rasterio

    write_scene(path, array, **profile)
    with rasterio.open(path, "r+") as file:
        if descriptions:
            file.descriptions = descriptions
        if colours:
            file.colorinterp = colours
    return path


def seen(paths, wanted):
    with open_rasters(paths, wanted) as raster:
        return raster.read_seen(0, 0, *raster.shape), raster.order.described


@pytest.mark.parametrize(
    "names",
    [("Blue", "Green", "Red"), ("B2 - blue", "B3 - green", "B4 - red"), ("blue (B02)", "green (B03)", "red (B04)")],
)
def test_descriptions_tell_the_order(tmp_path, names):
    found, said = seen([scene(tmp_path / "a.tif", PIXELS, names)], RGB)
    np.testing.assert_array_equal(found, PIXELS[::-1])
    assert said.startswith("bands by name: ")
    assert said.endswith("(numbers 3, 2, 1)")


def test_named_bands_are_found_among_many(tmp_path):
    array = np.concatenate([PIXELS, PIXELS[:2]])
    path = scene(tmp_path / "a.tif", array, ("B1", "B2", "B3", "B8", "B8A"))
    found, _ = seen([path], Wanted(("B08", "b03"), ("B03", "B08")))
    np.testing.assert_array_equal(found, array[[3, 2]])


def test_colours_stored_in_another_order_are_put_right(tmp_path):
    colours = (ColorInterp.blue, ColorInterp.green, ColorInterp.red)
    path = scene(tmp_path / "a.tif", PIXELS, colours=colours, photometric="minisblack")
    np.testing.assert_array_equal(seen([path], RGB)[0], PIXELS[::-1])


def test_colours_of_masks_stored_in_another_order_are_put_right(tmp_path):
    colours = (ColorInterp.blue, ColorInterp.green, ColorInterp.red)
    path = scene(tmp_path / "mask.tif", PIXELS, colours=colours, photometric="minisblack")
    with open_rasters([path], labels=True, colours=True) as raster:
        np.testing.assert_array_equal(raster.read_seen(0, 0, 20, 30, raw=True), PIXELS[::-1])
    np.testing.assert_array_equal(read_mask(path, "axial", colours=True).array[0], PIXELS[::-1])


def test_alpha_is_found_at_any_place_and_a_described_band_is_none(tmp_path):
    opaque = np.full((1, 20, 30), 255, np.uint8)
    opaque[0, :5] = 0
    argb = (ColorInterp.alpha, ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    first = scene(tmp_path / "argb.tif", np.concatenate([opaque, PIXELS]), colours=argb, photometric="minisblack")
    found, _ = seen([first], RGB)
    assert np.isnan(found[:, :5]).all()
    np.testing.assert_array_equal(found[:, 5:], PIXELS[:, 5:])
    infrared = scene(tmp_path / "rgbi.tif", np.concatenate([PIXELS, opaque]), ("red", "green", "blue", "nir"))
    np.testing.assert_array_equal(seen([infrared], RGB)[0], PIXELS)  # GDAL takes any fourth band of bytes for alpha
    assert channels_of(infrared) == ["red", "green", "blue", "nir"]
    numbered = scene(tmp_path / "4.tif", np.concatenate([PIXELS, opaque]), [f"Band {k}" for k in range(1, 5)])
    assert np.isnan(seen([numbered], RGB)[0][:, :5]).all()


def test_scales_that_are_not_applied_are_said(tmp_path):
    import rasterio

    path = scene(tmp_path / "a.tif", PIXELS.astype(np.uint16) * 2)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = [0.5, 0.5, 1], [-100, -100, 0]
    with open_rasters([path], RGB) as raster:
        (said,) = raster.notes
    assert "the scale 0.5 and offset -100 that it tags are not applied" in said


def test_colours_that_any_three_bands_get_say_nothing(tmp_path):
    found, said = seen([write_scene(tmp_path / "a.tif", PIXELS)], Wanted(("near infrared", "red", "green")))
    np.testing.assert_array_equal(found, PIXELS)
    assert said == "bands by position: near infrared = band 1, red = band 2, green = band 3"


def test_file_names_tell_the_order(tmp_path):
    paths = [write_scene(tmp_path / f"T32_B0{k}_10m.tif", PIXELS[k - 2 : k - 1]) for k in (2, 3, 4)]
    found, said = seen(paths, Wanted(("B04", "B03", "B02")))
    np.testing.assert_array_equal(found, PIXELS[::-1])
    assert said == (
        "bands by name: B04 = T32_B04_10m.tif, B03 = T32_B03_10m.tif, B02 = T32_B02_10m.tif (numbers 3, 2, 1)"
    )
    red = [write_scene(tmp_path / f"x_{name}.tif", PIXELS[:1] + k) for k, name in enumerate(("red_edge", "red"))]
    found, _ = seen(red, Wanted(("red", "red edge")))
    np.testing.assert_array_equal(found, np.concatenate([PIXELS[:1] + 1, PIXELS[:1]]))


@pytest.mark.parametrize("names", [("nir", "red", "green"), ("red", "green", "nir"), ("green", "", "")])
def test_names_that_contradict_the_order_are_refused(tmp_path, names):
    path = scene(tmp_path / "a.tif", PIXELS, names)
    with pytest.raises(InputError, match=r"a\.tif: its bands are .*, but this network expects red, green, blue, so"):
        seen([path], RGB)


def test_unknown_names_leave_the_order_and_are_said(tmp_path):
    _, said = seen([scene(tmp_path / "a.tif", PIXELS, ("B04", "B03", "B02"))], RGB)
    assert said == "bands by position: red = B04, green = B03, blue = B02"


def test_bands_go_to_the_finest_grid_or_the_one_that_is_wanted(tmp_path):
    fine = write_scene(tmp_path / "a_B02.tif", PIXELS[:1])
    coarse = write_scene(tmp_path / "a_B05.tif", PIXELS[1:2, ::2, ::2], transform=PLACE * Affine.scale(2))
    wanted = Wanted(("B05", "B02"))
    with open_rasters([coarse, fine], wanted) as raster:
        assert raster.shape == (20, 30)
        np.testing.assert_array_equal(raster.read_seen(0, 0, 20, 30)[1], PIXELS[0])
        size = " x ".join([f"{PLACE.a:g}"] * 2)
        assert raster.warping == f"1 of its files are warped to the pixels of a_B02.tif, {size} m: a_B05.tif"
    with open_rasters([coarse, fine], Wanted(("B05", "B02"), grid="B05")) as raster:
        assert raster.shape == (10, 15)
        np.testing.assert_array_equal(raster.read_seen(0, 0, 10, 15)[0], PIXELS[1, ::2, ::2])


@pytest.mark.parametrize(
    ("name", "expected"), [("B4", "b04"), ("b8A", "b08a"), ("Red Edge_1", "rededge1"), ("NIR", "nearinfrared")]
)
def test_names_are_compared_simplified(name, expected):
    assert simple(name) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("B02", "B03", "B04", "B08"), [2, 1, 0]),
        (("B02_10m", "B03_10m", "B04_10m"), [2, 1, 0]),
        (("B8A", "B4 - red", "green (B03)", "Blue"), [1, 2, 3]),
        (("red edge", "nir", "red", "green", "blue"), [2, 3, 4]),
        (("near infrared", "red", "green"), [0, 1, 2]),  # false colours, as stored
        (("T1", "T2", "FLAIR", "T1c"), [0, 1, 2]),
        (("MR",), [0, 0, 0]),
        (("red", "green"), [0, 0, 0]),
    ],
)
def test_colours_are_drawn_as_colours(names, expected):
    assert shown_channels(names) == expected


def test_of_stacked_slices_the_middle_one_is_drawn():
    assert shown_channels(("MR",), context=1) == [1, 1, 1]
    assert shown_channels(("blue", "green", "red"), context=2) == [8, 7, 6]

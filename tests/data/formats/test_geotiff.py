"""Rasters warped to the grid of the first file: nodata, alpha, other extents and CRS, and mismatches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine, from_origin
from rasterio.warp import Resampling, reproject, transform

from layouts import PLACE, write_scene
from mlla_seg.data.formats.bands import Wanted
from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.errors import InputError

UTM, MERCATOR = "EPSG:32636", "EPSG:3857"


def noise(*shape, dtype=np.uint8, low=1):
    return np.random.default_rng(0).integers(low, 250, shape).astype(dtype)


def read(*paths, **how):
    with open_rasters(paths, **how) as raster:
        facts = {name: getattr(raster, name) for name in ("shape", "count", "dtype", "warped", "ground")}
        return raster.read(0, 0, *raster.shape), SimpleNamespace(**facts)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_bands_of_every_type_come_as_they_are(tmp_path, dtype):
    array = noise(5, 40, 30, dtype=dtype)
    found, raster = read(write_scene(tmp_path / "a.tif", array))
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.float32
    assert raster.dtype == (dtype if dtype in ("uint8", "uint16", "int16") else "float32")
    assert (raster.shape, raster.count) == ((40, 30), 5)


@pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
def test_complex_numbers_are_refused(tmp_path, dtype):
    path = write_scene(tmp_path / "radar.tif", np.ones((1, 8, 8), np.complex64), dtype=dtype)
    with pytest.raises(InputError, match=f"radar.tif: holds complex numbers .{dtype}."):
        read(path)


def test_parts_are_parts(tmp_path):
    array = noise(2, 40, 30)
    with open_rasters([write_scene(tmp_path / "a.tif", array)]) as raster:
        np.testing.assert_array_equal(raster.read(3, 5, 20, 7), array[:, 3:23, 5:12])


def test_gaps_are_nan_band_by_band(tmp_path):
    array = noise(2, 20, 20, dtype=np.float64)
    array[0, 0, 0], array[1, 5, 5], array[0, 7, 7] = -9999, np.nan, np.inf
    found, raster = read(write_scene(tmp_path / "a.tif", array, nodata=-9999))
    gaps = np.zeros((2, 20, 20), bool)
    gaps[0, 0, 0] = gaps[1, 5, 5] = gaps[0, 7, 7] = True
    np.testing.assert_array_equal(np.isnan(found), gaps)
    np.testing.assert_array_equal(found[~gaps], array[~gaps])
    assert raster.dtype == np.float32
    _, bytes_with_gaps = read(write_scene(tmp_path / "b.tif", noise(1, 9, 9), nodata=0))
    assert bytes_with_gaps.dtype == np.float32


def test_alpha_says_where_there_is_data_only_where_it_is_not_expected(tmp_path):
    array = noise(4, 20, 20)
    array[3] = 255
    array[3, :5] = 0
    path = write_scene(tmp_path / "rgba.tif", array)
    with rasterio.open(path) as file:  # what GDAL takes four bands of bytes for
        assert file.colorinterp[3].name == "alpha"
    found, raster = read(path, wanted=Wanted(("a", "b", "c")))
    assert (raster.count, raster.dtype) == (3, np.float32)
    assert np.isnan(found[:, :5]).all()
    np.testing.assert_array_equal(found[:, 5:], array[:3, 5:])
    found, raster = read(path, wanted=Wanted(("a", "b", "c", "near infrared")))
    assert raster.count == 4
    np.testing.assert_array_equal(found, array)


def test_mask_inside_of_the_file_says_where_there_is_data(tmp_path):
    array = noise(3, 20, 20)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_scene(tmp_path / "a.tif", array)
        with rasterio.open(tmp_path / "a.tif", "r+") as file:
            file.write_mask(np.arange(20)[:, None].repeat(20, axis=1) >= 5)
    found, raster = read(tmp_path / "a.tif")
    assert raster.dtype == np.float32
    assert np.isnan(found[:, :5]).all()
    np.testing.assert_array_equal(found[:, 5:], array[:, 5:])


def test_bands_of_several_files_follow_each_other(tmp_path):
    image, height = noise(3, 20, 30), noise(1, 20, 30, dtype=np.float32)
    found, raster = read(write_scene(tmp_path / "a.tif", image), write_scene(tmp_path / "b.tif", height))
    np.testing.assert_array_equal(found, np.concatenate([image, height]))
    assert (raster.count, raster.warped, raster.dtype) == (4, {}, np.float32)


def test_a_tenth_of_a_pixel_is_the_same_place(tmp_path):
    a = write_scene(tmp_path / "a.tif", noise(1, 20, 30))
    for name, shift, warped in (("b", 0.05, False), ("c", 1.0, True)):
        b = write_scene(tmp_path / f"{name}.tif", noise(1, 20, 30), transform=PLACE * Affine.translation(shift, 0))
        assert bool(read(a, b)[1].warped) is warped


@pytest.mark.parametrize("crs", [None, UTM])
def test_file_with_other_pixels_is_brought_to_the_first(tmp_path, crs):
    """A mask that starts two rows and three columns before the image and ends inside it."""
    whole = noise(1, 30, 40)
    image = write_scene(tmp_path / "a.tif", noise(1, 20, 30), crs=crs)
    mask = write_scene(tmp_path / "b.tif", whole[:, :15], crs=crs, transform=PLACE * Affine.translation(-3, -2))
    with open_rasters([image]) as first, open_rasters([mask], like=first, labels=True) as raster:
        found = raster.read(0, 0, *raster.shape)[0]
        assert raster.warped == {"b.tif": pytest.approx(0.65, abs=0.02)}  # 13 of 20 rows
    np.testing.assert_array_equal(found[:13], whole[0, 2:15, 3:33])
    assert np.isnan(found[13:]).all()  # beyond the border of the mask nothing is known


@pytest.mark.parametrize("labels", [True, False])
def test_file_in_another_crs_is_warped_as_gdal_does(tmp_path, labels):
    (left,), (top,) = transform(UTM, MERCATOR, [500_000], [35_000])
    place = from_origin(left - 20, top + 20, 0.7, 0.7)
    values = noise(1, 200, 200)
    image = write_scene(tmp_path / "a.tif", noise(1, 60, 50))
    other = write_scene(tmp_path / "b.tif", values, crs=MERCATOR, transform=place)
    with open_rasters([image]) as first, open_rasters([other], like=first, labels=labels) as raster:
        found = raster.read(0, 0, *raster.shape)
    expected = np.zeros((1, 60, 50), np.float32)
    how = {"src_crs": MERCATOR, "src_transform": place, "dst_crs": UTM, "dst_transform": PLACE}
    reproject(
        values.astype(np.float32), expected, resampling=Resampling.nearest if labels else Resampling.bilinear, **how
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)
    if labels:
        assert set(np.unique(found)) <= set(np.unique(values))


def test_what_does_not_fit_is_named(tmp_path):
    a = write_scene(tmp_path / "a.tif", noise(1, 20, 30))
    b = write_scene(tmp_path / "b.tif", noise(1, 20, 31), transform=None, crs=None)
    with pytest.raises(
        InputError, match=r"b\.tif: 20 x 31 pixels, but a\.tif has 20 x 30\. Files of different sizes must both be"
    ):
        read(a, b)
    with pytest.raises(InputError, match=r"absent\.tif: no such file"):
        read(a, tmp_path / "absent.tif")
    same_shape = write_scene(tmp_path / "c.tif", noise(1, 20, 30), transform=None, crs=None)
    assert read(a, same_shape)[1].warped == {}  # taken as it is


def test_ground_is_what_the_file_says(tmp_path):
    ground = read(write_scene(tmp_path / "a.tif", noise(1, 20, 30)))[1].ground
    assert rasterio.crs.CRS.from_wkt(ground.crs) == rasterio.crs.CRS.from_epsg(32636)
    assert (Affine(*ground.transform), ground.shape) == (PLACE, (20, 30))
    assert read(write_scene(tmp_path / "b.tif", noise(1, 2, 3), crs=None))[1].ground.crs is None
    assert read(write_scene(tmp_path / "c.tif", noise(1, 2, 3), crs=None, transform=None))[1].ground is None

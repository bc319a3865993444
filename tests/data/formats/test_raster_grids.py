"""Places of rasters: control points and RPCs are kept, and warping to them works or is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from rasterio.transform import Affine

from layouts import PLACE, write_scene
from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.data.formats.geotiff_masks import write_map
from mlla_seg.errors import InputError

SHAPE = (20, 30)
PIXELS = np.random.default_rng(0).integers(1, 250, (1, *SHAPE)).astype(np.uint8)


def points(bend=0.0):
    return [
        GroundControlPoint(row, column, *(PLACE * (column + bend * (row == 20 and column == 30), row)))
        for row in (0, 20)
        for column in (0, 30)
    ]


def with_points(path, bend=0.0):
    return write_scene(path, PIXELS, transform=None, gcps=points(bend))


def with_rpcs(path):
    ones = [1.0] + [0.0] * 19
    line, sample = [0.0, 0.0, -1.0] + [0.0] * 17, [0.0, 1.0] + [0.0] * 18
    rpcs = RPC(100, 500, 28, 0.05, ones, line, 10, 10, 77, 0.05, ones, sample, 15, 15)
    return write_scene(path, PIXELS, transform=None, crs=None, rpcs=rpcs)


@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize("write", [with_points, with_rpcs])
def test_a_map_is_placed_as_its_scene(tmp_path, write, cog):
    with open_rasters([write(tmp_path / "a.tif")]) as raster:
        place = raster.place
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotGeoreferencedWarning)
        classes = [ClassInfo("a", (0, 0, 0), 0)]
        write_map(tmp_path / "m.tif", lambda *part: np.zeros(SHAPE, np.uint8)[part], SHAPE, classes, place, cog)
    with rasterio.open(tmp_path / "m.tif") as found, rasterio.open(tmp_path / "a.tif") as source:
        told, expected = ([(p.row, p.col, p.x, p.y) for p in file.gcps[0]] for file in (found, source))
        assert told == expected
        assert (found.gcps[1], found.rpcs) == (source.gcps[1], source.rpcs)


def test_a_mask_is_warped_to_control_points_on_a_regular_grid(tmp_path):
    image = with_points(tmp_path / "a.tif")
    moved = write_scene(tmp_path / "b.tif", PIXELS, transform=PLACE * Affine.translation(2, 3))
    same = write_scene(tmp_path / "c.tif", PIXELS)
    with open_rasters([image]) as first:
        with open_rasters([moved], like=first, labels=True) as raster:
            found = raster.read(0, 0, *SHAPE)[0]
        np.testing.assert_array_equal(found[3:, 2:], PIXELS[0, :-3, :-2])
        with open_rasters([same], like=first, labels=True) as raster:
            assert raster.warped == {}


def test_the_mask_may_have_control_points_itself(tmp_path):
    image = write_scene(tmp_path / "a.tif", PIXELS, transform=PLACE * Affine.translation(2, 3))
    with (
        open_rasters([image]) as first,
        open_rasters([with_points(tmp_path / "b.tif")], like=first, labels=True) as mask,
    ):
        np.testing.assert_array_equal(mask.read(0, 0, *SHAPE)[0, :-3, :-2], PIXELS[0, 3:, 2:])


@pytest.mark.parametrize(("write", "what"), [(lambda path: with_points(path, 5), "bent control"), (with_rpcs, "RPCs")])
def test_warping_to_anything_else_is_refused(tmp_path, write, what):
    image = write(tmp_path / "a.tif")
    mask = write_scene(tmp_path / "b.tif", PIXELS)
    with open_rasters([image]) as first:
        said = rf"b\.tif: is on another grid .* a\.tif is placed by {what}.*gdalwarp"
        with pytest.raises(InputError, match=said), open_rasters([mask], like=first, labels=True):
            pass
        copy = write(tmp_path / "copy.tif")
        with open_rasters([copy], like=first, labels=True) as raster:  # drawn on the image itself
            assert raster.warped == {}


def test_a_file_elsewhere_is_an_error_that_tells_both_places(tmp_path):
    image = write_scene(tmp_path / "a.tif", PIXELS)
    mask = write_scene(tmp_path / "b.tif", PIXELS, transform=PLACE * Affine.translation(500, 0), crs="EPSG:32637")
    said = r"b\.tif: covers nothing of a\.tif: it lies at x .* \(EPSG:32637\), the other at x .* \(EPSG:32636\)\. Pair"
    with (
        open_rasters([image]) as first,
        pytest.raises(InputError, match=said),
        open_rasters([mask], like=first, labels=True),
    ):
        pass

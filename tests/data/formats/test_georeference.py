"""Overlap of scenes on the ground, across CRS, rotations and splits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin
from rasterio.warp import calculate_default_transform

from mlla_seg.data.formats.georeference import Ground, note_overlaps, overlap, overlapping

UTM = CRS.from_epsg(32636).to_wkt()


def scene(left, top, height=100, width=200, crs=UTM, angle=0.0):
    place = from_origin(500_000 + left, 35_000 + top, 0.5, 0.5) * Affine.rotation(angle)
    return Ground(crs, tuple(place)[:6], (height, width))


def named(**grounds):
    return [SimpleNamespace(name=name, ground=ground) for name, ground in grounds.items()]


@pytest.mark.parametrize(
    ("other", "share"),
    [
        (scene(0, 0), 1.0),
        (scene(50, 0), 0.5),  # 100 of its 200 columns
        (scene(50, -25), 0.25),
        (scene(100, 0), 0.0),  # side by side, with a common edge
        (scene(0, -50), 0.0),
        (scene(10, -10, 20, 20), 1.0),
        (scene(0, 0, crs=None), 0.0),  # nobody knows
    ],
)
def test_share_of_the_other_scene(other, share):
    assert overlap(scene(0, 0), other) == pytest.approx(share, abs=0.02)


def test_one_common_row_is_an_overlap():
    assert 0 < overlap(scene(0, 0), scene(0, -49.5)) < 0.03


def test_rotated_scenes_are_no_boxes():
    rotated = scene(0, 0, 100, 100, angle=45)  # a square that stands on its corner
    assert overlap(rotated, rotated) == 1
    assert overlapping(named(a=rotated), named(b=scene(28, 0, 14, 14))) == []  # in its box, beside its right corner
    assert overlap(rotated, scene(-5, -30, 20, 20)) == 1


def test_the_same_place_in_another_crs_is_found():
    ground = scene(0, 0)
    degrees = CRS.from_epsg(4326)
    bounds = (500_000, 34_950, 500_100, 35_000)
    place, width, height = calculate_default_transform(CRS.from_wkt(UTM), degrees, 200, 100, *bounds)
    other = Ground(degrees.to_wkt(), tuple(place)[:6], (height, width))
    assert overlap(ground, other) > 0.95
    assert overlapping(named(a=ground), named(b=other))[0][:2] == ("a", "b")


def test_overlaps_of_splits_are_said(capsys):
    train, test = named(a=scene(0, 0), far=scene(9000, 0), nowhere=None), named(b=scene(50, 0), c=scene(80, 0))
    note_overlaps({"train": train, "val": [], "test": test})
    message = capsys.readouterr().err
    assert (
        "note: b (test) overlaps a (train) on the ground, 50% of it, and 1 more such pairs: its scores are" in message
    )
    note_overlaps({"train": train, "test": named(d=scene(200, 0), e=None)})
    assert capsys.readouterr().err == ""


def test_coordinates_that_are_none_of_the_crs_are_left_alone():
    nowhere = Ground(CRS.from_epsg(32636).to_wkt(), (1.0, 0, np.inf, 0, -1.0, 1e30), (10, 10))
    assert overlapping(named(a=nowhere), named(b=scene(0, 0))) == []

"""Polygons of maps: the regions of the map, refused early where they have no place, and no danger to the map."""

from __future__ import annotations

import re

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from layouts import write_scene
from maps import Bright, Mortal, make_map, noise, spec_of
from mlla_seg.errors import InputError
from mlla_seg.inference.scenes import PolygonsFailed


def polygons_of(path):
    _, _, geometry, (names, ids, areas) = pyogrio.raw.read(path)
    return shapely.from_wkb(geometry), names.tolist(), ids.tolist(), areas


@pytest.mark.parametrize("format", ["gpkg", "geojson"])
def test_polygons_are_the_regions_of_the_map(tmp_path, format):
    array = np.full((1, 60, 80), 120, np.uint8)  # roof, but for
    array[0, 10:30, 20:50] = 200  # water, with
    array[0, 15:20, 25:35] = 40  # an island of the class without polygons
    array[0, 50:, 70:] = 40
    source = write_scene(tmp_path / "scene.tif", array)
    spec = spec_of(1, background=0)
    make_map(Bright(), spec, source, tmp_path / "map.tif", polygons=format)
    shapes, names, ids, areas = polygons_of(tmp_path / f"map.{format}")
    assert sorted(zip(names, ids, strict=True)) == [("roof", 1), ("water", 2)]
    roof, water = names.index("roof"), names.index("water")
    pixel = 0.25 / 0.9996**2  # square metres on the central meridian of UTM
    np.testing.assert_allclose(areas[[roof, water]], [(4800 - 600 - 100) * pixel, (600 - 50) * pixel], rtol=1e-4)
    assert (len(shapes[roof].interiors), len(shapes[water].interiors)) == (1, 1)
    if format == "gpkg":
        assert shapes[water].bounds == (500_010, 34_985, 500_025, 34_995)
        assert pyogrio.read_info(tmp_path / "map.gpkg")["crs"] == "EPSG:32636"
    else:  # which is in degrees by its standard
        assert 32 < shapes[water].bounds[0] < 34
        assert 0 < shapes[water].bounds[1] < 1
    assert sorted(path.name for path in tmp_path.glob("map*")) == [f"map.{format}", "map.tif"]


def test_polygons_without_a_crs_are_in_pixels(tmp_path, capsys):
    source = write_scene(tmp_path / "scene.tif", np.full((1, 20, 30), 120, np.uint8), transform=None, crs=None)
    make_map(Bright(), spec_of(1), source, tmp_path / "map.tif", polygons="gpkg")
    (shape,), names, _, areas = polygons_of(tmp_path / "map.gpkg")
    assert (shape.bounds, names, areas.tolist()) == ((0, 0, 30, 20), ["roof"], [600])
    assert pyogrio.read_info(tmp_path / "map.gpkg")["fields"].tolist() == ["class", "class_id", "area_px"]
    assert "map.tif: has no geotransform; polygons are in columns and rows and have area_px" in capsys.readouterr().err


CORNERS = [
    rasterio.control.GroundControlPoint(row, column, 500_000 + column, 9_000 - row)
    for row in (0, 20)
    for column in (0, 30)
]
LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'


@pytest.mark.parametrize(
    ("place", "options", "message"),
    [
        (
            {"crs": None},
            {"polygons": "geojson"},
            "has no CRS, but GeoJSON is in longitude and latitude. Use --polygons",
        ),
        ({"crs": LOCAL}, {"polygons": "geojson"}, "its CRS has no relation to longitude and latitude, but GeoJSON"),
        ({"transform": None}, {"polygons": "geojson"}, "has no geotransform, but GeoJSON"),
        ({"transform": None, "gcps": CORNERS}, {"polygons": "geojson"}, "has GCPs or RPCs in place of a geotransform"),
        (
            {"crs": None},
            {"polygons": "gpkg", "min_area_m2": 9},
            "has no CRS, so --min_area_m2 in metres has no meaning",
        ),
        (
            {"crs": LOCAL},
            {"polygons": "gpkg", "simplify": 1},
            "its CRS has no relation to longitude",
        ),
    ],
)
def test_polygons_that_cannot_be_placed_are_refused_before_the_first_window(tmp_path, place, options, message):
    source = write_scene(tmp_path / "scene.tif", np.full((1, 20, 30), 120, np.uint8), **place)
    with pytest.raises(InputError, match=r"scene\.tif: " + re.escape(message)):
        make_map(Mortal(0), spec_of(1), source, tmp_path / "map.tif", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_the_finished_map_does_not_depend_on_its_polygons_which_are_written_by_another_run(tmp_path, monkeypatch):
    source = write_scene(tmp_path / "scene.tif", noise(1, 90, 100))
    (tmp_path / "map.gpkg").write_text("of another map")

    def full_disk(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as context:
        context.setattr("mlla_seg.inference.scenes.write_polygons", full_disk)
        with pytest.raises(PolygonsFailed, match=r"map\.tif: is finished, but its polygons .*gpkg: the disk is full"):
            make_map(Bright(), spec_of(1), source, tmp_path / "map.tif", polygons="gpkg")
    make_map(Bright(), spec_of(1), source, tmp_path / "alone.tif", polygons="gpkg")
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "alone.tif").read_bytes()
    assert not (tmp_path / "map.gpkg").exists()
    make_map(Mortal(0), spec_of(1), source, tmp_path / "map.tif", polygons="gpkg")  # without the network
    assert len(polygons_of(tmp_path / "map.gpkg")[0]) == len(polygons_of(tmp_path / "alone.gpkg")[0])
    assert not list(tmp_path.glob(".*.partial"))


def test_a_map_without_any_region_has_no_polygons(tmp_path):
    source = write_scene(tmp_path / "scene.tif", np.full((1, 20, 30), 40, np.uint8))
    make_map(Bright(), spec_of(1, background=0), source, tmp_path / "map.tif", polygons="gpkg")
    assert len(polygons_of(tmp_path / "map.gpkg")[0]) == 0

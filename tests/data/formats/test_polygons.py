"""Polygon layers: burned back they are the map, small components are gone, GeoJSON follows RFC 7946."""

from __future__ import annotations

import json

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import rasterize, sieve
from rasterio.transform import Affine

from layouts import PLACE, write_scene
from mlla_seg.data.formats import polygonise, polygons
from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.data.formats.polygons import PolygonOptions, write_polygons

CLASSES = [ClassInfo(name, (0, 0, 0), number) for name, number in (("ground", 0), ("roof", 1), ("water", 7))]
NODATA = 255


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(polygonise, "PIXELS", 1)  # strips of 16 rows
    monkeypatch.setattr(polygons, "BATCH", 50)


def speckled():
    rng = np.random.default_rng(0)
    labels = np.kron(rng.choice([0, 1, 7], (6, 5)), np.ones((12, 15), int)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 1
    labels[:9, :20] = NODATA
    labels[3, 5:7] = 7  # an island in what has no data
    return labels


def write(folder, labels, format="gpkg", background=None, place=PLACE, crs="EPSG:32636", **options):
    """Write a map and its polygons; return their shapes, names, ids and areas."""
    write_scene(folder / "map.tif", labels[None], place, crs, nodata=NODATA)
    path = folder / f"map.{format}"
    count = write_polygons(path, folder / "map.tif", CLASSES, background, PolygonOptions(format, **options))
    assert sorted(path.name for path in folder.iterdir()) == sorted(["map.tif", path.name])
    _, _, geometry, (names, ids, areas) = pyogrio.raw.read(path)
    assert len(geometry) == count
    return shapely.from_wkb(geometry), names, ids, areas


def burned(shapes, ids, labels):
    pairs = list(zip(shapes, ids.tolist(), strict=True))
    return rasterize(pairs, labels.shape, fill=NODATA, transform=PLACE, dtype=np.uint8)


@pytest.mark.parametrize("background", [None, 0])
def test_polygons_burned_back_are_the_map(tmp_path, background):
    labels = speckled()
    shapes, names, ids, areas = write(tmp_path, labels, background=background)
    expected = labels if background is None else np.where(labels == 0, NODATA, labels)
    np.testing.assert_array_equal(burned(shapes, ids, labels), expected)
    assert {*zip(names, ids.tolist(), strict=True)} == {("ground", 0), ("roof", 1), ("water", 7)} - (
        set() if background is None else {("ground", 0)}
    )
    np.testing.assert_allclose(areas, shapely.area(shapes) / 0.9996**2, rtol=1e-4)
    assert pyogrio.read_info(tmp_path / "map.gpkg")["fields"].tolist() == ["class", "class_id", "area_m2"]
    with rasterio.open(tmp_path / "map.tif") as file:
        np.testing.assert_array_equal(file.read(1), labels)


def test_components_below_the_minimum_area_join_their_neighbours_and_are_counted(tmp_path, capsys):
    labels = speckled()
    shapes, _, ids, areas = write(tmp_path, labels, min_area_m2=5)  # just under 20 pixels
    merged = sieve(labels, 20, mask=labels != NODATA)
    expected = np.where((labels == 7) & (merged == 7), labels, merged)
    expected[3, 5:7] = NODATA  # has no neighbour to join
    np.testing.assert_array_equal(burned(shapes, ids, labels), expected)
    assert areas.min() >= 5
    said = capsys.readouterr().err
    assert f"{(merged != labels).sum()} of {labels.size} pixels, in components under 5 m2 (20 pixels), joined" in said
    assert "map.gpkg: leaves out 1 of these components, which have no larger neighbour" in said


def test_simplified_polygons_cover_the_map_without_gaps(tmp_path):
    if not hasattr(shapely, "coverage_simplify"):
        pytest.skip("needs shapely 2.1")
    labels = speckled()
    exact, *_ = write(tmp_path, labels, min_area_m2=5)
    (tmp_path / "map.gpkg").unlink()
    shapes, _, _, areas = write(tmp_path, labels, min_area_m2=5, simplify_m=2)
    assert shapely.coverage_is_valid(shapes)
    assert shapely.area(shapes).sum() == pytest.approx(shapely.area(exact).sum())
    assert shapely.get_num_coordinates(shapes).sum() < shapely.get_num_coordinates(exact).sum()
    np.testing.assert_allclose(areas, shapely.area(shapes) / 0.9996**2, rtol=1e-4)


@pytest.mark.parametrize("degrees", [True, False])
def test_geojson_follows_its_standard(tmp_path, degrees):
    place = {"crs": "EPSG:4326", "place": Affine(1e-4, 0, 33, 0, -1e-4, 40)} if degrees else {}
    shapes, *_ = write(tmp_path, speckled(), "geojson", **place)
    text = (tmp_path / "map.geojson").read_text()
    found = json.loads(text)
    assert (found["type"], "crs" in found) == ("FeatureCollection", False)
    assert {feature["geometry"]["type"] for feature in found["features"]} == {"Polygon"}
    assert {*found["features"][0]["properties"]} == {"class", "class_id", "area_m2"}
    assert all(shapely.is_ccw(shapely.get_rings(shape)[0]) for shape in shapes)
    assert not any(shapely.is_ccw(shapely.get_rings(shape)[1:]).any() for shape in shapes)
    points = shapely.get_coordinates(shapes)
    np.testing.assert_allclose(points, points.round(7), atol=1e-12)
    assert (points[:, 0] > 32).all() and (points[:, 0] < 34).all()


def test_geojson_is_cut_at_the_antimeridian(tmp_path):
    labels = np.full((20, 40), 1, np.uint8)
    (shape,), *_, (area,) = write(
        tmp_path, labels, "geojson", crs="EPSG:4326", place=Affine(1e-3, 0, 179.98, 0, -1e-3, 9)
    )
    assert shape.geom_type == "MultiPolygon"
    assert sorted(part.bounds[::2] for part in shape.geoms) == [(-180, -179.98), (179.98, 180)]
    assert area == pytest.approx(40 * 20 * 109.97 * 110.6, rel=0.01)


@pytest.mark.parametrize("format", ["gpkg", "geojson"])
def test_a_map_without_polygons_gives_an_empty_layer(tmp_path, format):
    source = write_scene(tmp_path / "map.tif", np.full((1, 40, 30), NODATA, np.uint8), nodata=NODATA)
    assert write_polygons(tmp_path / f"map.{format}", source, CLASSES, None, PolygonOptions(format)) == 0
    assert pyogrio.read_info(tmp_path / f"map.{format}")["features"] == 0

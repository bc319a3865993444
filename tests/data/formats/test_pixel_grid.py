"""Areas on the ground are those of geodesic polygons, wherever the map lies."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import Affine

from layouts import write_scene
from mlla_seg.data.formats.pixel_grid import PixelGrid

POLYGONS = np.array(
    [
        shapely.box(0, 0, 700, 500),
        shapely.box(3, 4, 5, 9),
        shapely.box(0, 0, 10, 10).difference(shapely.box(2, 2, 4, 4)),
    ]
)


def grid_of(path, crs, transform):
    with rasterio.open(write_scene(path, np.zeros((1, 500, 700), np.uint8), transform, crs)) as dataset:
        return PixelGrid.of(dataset)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32636", Affine(10, 0, 500_000, 0, -10, 4_500_000)),
        ("EPSG:32636", Affine(10, 0, 500_000, 0, -10, 4_500_000) * Affine.rotation(30)),
        ("EPSG:32660", Affine(10, 0, 800_000, 0, -10, 4_500_000)),  # on the antimeridian
        ("EPSG:4326", Affine(1e-4, 0, 33, 0, -2e-4, 60)),
        ("EPSG:4326", Affine(1e-4, 0, 179.97, 0, -1e-4, -30)),
        ("EPSG:3857", Affine(1, 0, 3_000_000, 0, -1, 8_000_000)),  # where a metre is half a metre
        ("EPSG:3031", Affine(100, 0, -25_000, 0, -100, 25_000)),  # around the south pole
        ("EPSG:2263", Affine(1, 0, 980_000, 0, -1, 200_000)),  # in feet
    ],
)
def test_areas_are_geodesic(tmp_path, crs, transform):
    pyproj = pytest.importorskip("pyproj")
    geod, degrees = pyproj.Geod(ellps="WGS84"), pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    grid = grid_of(tmp_path / "scene.tif", crs, transform)
    expected = []
    for polygon in grid.placed(shapely.segmentize(POLYGONS, 1)):
        rings = [np.array(ring.coords) for ring in (polygon.exterior, *polygon.interiors)]
        sizes = [abs(geod.polygon_area_perimeter(*degrees.transform(*ring.T))[0]) for ring in rings]
        expected.append(sizes[0] - sum(sizes[1:]))
    np.testing.assert_allclose(grid.areas(POLYGONS), expected, rtol=1e-6)


@pytest.mark.parametrize("west", [-180, 0])
def test_the_whole_earth(tmp_path, west):
    grid = grid_of(tmp_path / "earth.tif", "EPSG:4326", Affine(360 / 700, 0, west, 0, -180 / 500, 90))
    assert grid.areas(POLYGONS)[0] == pytest.approx(510_065_621_724_089, rel=1e-9)


@pytest.mark.parametrize("crs", [None, 'LOCAL_CS["site",UNIT["metre",1]]'])
def test_without_longitude_and_latitude_areas_are_in_pixels(tmp_path, crs):
    grid = grid_of(tmp_path / "scene.tif", crs, Affine(0.5, 0, 10, 0, -0.5, 20))
    assert grid.equal_area is None
    np.testing.assert_array_equal(grid.areas(POLYGONS), [350_000, 10, 96])

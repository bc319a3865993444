"""Polygons burned onto windows of a raster, compared with rasterio over the whole raster."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.warp import transform

from maps import write_polygons
from mlla_seg.data.formats import burning
from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.formats.vector_sources import open_layer
from mlla_seg.errors import InputError

UTM = rasterio.crs.CRS.from_epsg(32636).to_wkt()
WINDOWS = [(0, 0, 1, 83), (1, 0, 30, 83), (31, 5, 13, 40), (31, 45, 13, 38), (44, 0, 17, 83), (60, 82, 1, 1)]
PLACES = {
    "north up": (0.5, 0.0, 450000.0, 0.0, -0.5, 35000.0),
    "odd pixels": (0.3, 0.0, 450000.1, 0.0, -0.3, 35000.7),
    "rotated": (0.4, 0.2, 450000.0, 0.2, -0.4, 35000.0),
    "south up": (0.5, 0.0, 450000.0, 0.0, 0.5, 34000.0),
}


def blobs(ground, count=60, snap=None):
    """Random polygons with holes around the raster, in its coordinates; vertices on fractions of a pixel if snapped."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(count):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
        outline = rng.uniform(-10, 95, 2) + rng.uniform(2, 25) * np.stack((np.cos(angles), np.sin(angles)), axis=1)
        shape = shapely.Polygon(outline if snap is None else np.round(outline * snap) / snap)
        inner = shapely.buffer(shapely.centroid(shape), 1.5)
        found.append(shape.difference(inner) if shape.is_valid and shape.contains(inner) else shape)
    a, b, c, d, e, f = ground.transform
    return shapely.transform(np.array(found, object), lambda p: np.stack((p @ (a, b) + c, p @ (d, e) + f), axis=1))


def burned(path, ground, windows, all_touched=False):
    layer = open_layer(path, attribute="kind")
    canvas = burning.Canvas.of(ground, layer, "image.tif")
    ranks = {"roof": 1, "tree": 2}
    return [
        burning.burn(layer, canvas, part, lambda values: [ranks[value] for value in values], 0, all_touched)
        for part in windows
    ]


@pytest.mark.parametrize(("all_touched", "snap"), [(False, None), (False, 2), (False, 4), (True, None)])
@pytest.mark.parametrize("place", PLACES)
def test_windows_equal_rasterio_over_the_whole(tmp_path, place, snap, all_touched):
    ground = Ground(UTM, PLACES[place], (61, 83))
    polygons = blobs(ground, snap=snap)
    kinds = ["tree" if k % 3 else "roof" for k in range(len(polygons))]
    path = write_polygons(tmp_path / "labels.gpkg", polygons, {"kind": kinds}, "EPSG:32636")
    ordered = [
        (shape, value)
        for value, name in ((1, "roof"), (2, "tree"))
        for shape, kind in zip(polygons, kinds, strict=True)
        if kind == name
    ]
    whole = rasterize(
        ordered, (61, 83), transform=rasterio.Affine(*ground.transform), all_touched=all_touched, dtype=np.uint8
    )
    assert set(np.unique(whole)) == {0, 1, 2}
    for (top, left, height, width), got in zip(WINDOWS, burned(path, ground, WINDOWS, all_touched), strict=True):
        np.testing.assert_array_equal(got, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("fraction", [1, 2])
def test_touched_pixels_of_boxes_between_pixels_or_through_their_centres(tmp_path, fraction):
    ground = Ground(UTM, PLACES["north up"], (61, 83))
    corners = np.random.default_rng(0).integers(-5, 90 * fraction, (40, 2)) / fraction
    sides = np.random.default_rng(1).integers(1, 12 * fraction, (40, 2)) / fraction
    polygons = shapely.transform(
        shapely.box(*corners.T, *(corners + sides).T), lambda p: p * (0.5, -0.5) + (450000, 35000)
    )
    path = write_polygons(tmp_path / "labels.gpkg", polygons, {"kind": ["roof"] * 40}, "EPSG:32636")
    place = rasterio.Affine(*ground.transform)
    whole = rasterize([(p, 1) for p in polygons], (61, 83), transform=place, all_touched=True, dtype=np.uint8)
    for (top, left, height, width), got in zip(WINDOWS, burned(path, ground, WINDOWS, True), strict=True):
        np.testing.assert_array_equal(got, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_polygons_of_another_crs(tmp_path, suffix):
    ground = Ground(UTM, PLACES["odd pixels"], (61, 83))
    polygons = blobs(ground)
    whole = rasterize(
        [(p, 1) for p in polygons], (61, 83), transform=rasterio.Affine(*ground.transform), dtype=np.uint8
    )
    placed = shapely.transform(polygons, lambda p: np.stack(transform(UTM, "EPSG:4326", *p.T), axis=1))
    path = write_polygons(tmp_path / f"labels{suffix}", placed, {"kind": ["roof"] * len(placed)}, "EPSG:4326")
    got = np.concatenate(burned(path, ground, [(0, 0, 20, 83), (20, 0, 41, 83)]))
    assert np.count_nonzero(got != whole) <= 2  # a centre on an edge, up to rounding


def test_long_edges_are_curves_in_another_projection(tmp_path):
    ground = Ground(rasterio.crs.CRS.from_epsg(3035).to_wkt(), (1000.0, 0.0, 3e6, 0.0, -1000.0, 3.3e6), (400, 900))
    band = shapely.box(-10, 50, 40, 51)  # between two parallels
    path = write_polygons(tmp_path / "labels.geojson", np.array([band]), {"kind": ["roof"]}, "EPSG:4326")
    (got,) = burned(path, ground, [(0, 0, 400, 900)])
    rows, columns = np.mgrid[:400, :900]
    x, y = 3e6 + 1000 * (columns + 0.5), 3.3e6 - 1000 * (rows + 0.5)
    longitude, latitude = (np.reshape(v, (400, 900)) for v in transform(ground.crs, "EPSG:4326", x.ravel(), y.ravel()))
    inside = (latitude > 50) & (latitude < 51) & (longitude > -10) & (longitude < 40)
    assert inside.any()
    assert np.count_nonzero(got != inside) < 10


def test_scene_across_the_antimeridian(tmp_path):
    ground = Ground(
        rasterio.crs.CRS.from_epsg(32701).to_wkt(), (100.0, 0.0, 176000.0, 0.0, -100.0, 8150000.0), (60, 90)
    )
    whole = np.zeros((60, 90), np.uint8)
    whole[10:50, 10:80] = 1
    x, y = 176000 + 100 * np.array([10, 80]), 8150000 - 100 * np.array([50, 10])
    box = shapely.segmentize(shapely.box(x[0], y[0], x[1], y[1]), 500)
    outline = np.stack(transform(ground.crs, "EPSG:4326", *shapely.get_coordinates(box).T), axis=1)
    outline[:, 0] %= 360
    around = shapely.Polygon(outline)
    halves = [
        shapely.intersection(around, shapely.box(0, -90, 180, 90)),
        shapely.intersection(around, shapely.box(180, -90, 360, 90)),
    ]
    assert not any(half.is_empty for half in halves)
    halves[1] = shapely.transform(halves[1], lambda p: p - (360, 0))
    path = write_polygons(tmp_path / "labels.geojson", np.array(halves), {"kind": ["roof", "roof"]}, "EPSG:4326")
    (got,) = burned(path, ground, [(0, 0, 60, 90)])
    assert np.count_nonzero(got != whole) <= 2


def test_world_as_polygon_is_cut_before_it_is_reprojected(tmp_path):
    ground = Ground(UTM, PLACES["north up"], (61, 83))
    world = np.array([shapely.box(-180, -90, 180, 90)])
    path = write_polygons(tmp_path / "labels.geojson", world, {"kind": ["roof"]}, "EPSG:4326")
    assert all((got == 1).all() for got in burned(path, ground, WINDOWS))


def test_image_without_a_place(tmp_path):
    path = write_polygons(
        tmp_path / "labels.gpkg", np.array([shapely.box(2, 1, 5, 4)]), {"kind": ["roof"]}, "EPSG:4326"
    )
    with pytest.raises(
        InputError, match=r"image.tif: has no geotransform, so the polygons of .*labels.gpkg have no place"
    ):
        burned(path, None, WINDOWS)


def test_polygons_in_columns_and_rows(tmp_path):
    path = write_polygons(tmp_path / "labels.gpkg", np.array([shapely.box(2, 1, 5, 4)]), {"kind": ["roof"]}, None)
    (got,) = burned(path, None, [(0, 0, 6, 7)])
    np.testing.assert_array_equal(np.argwhere(got), [[r, c] for r in (1, 2, 3) for c in (2, 3, 4)])

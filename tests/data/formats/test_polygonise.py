"""Polygons found strip by strip are exactly those of the whole raster."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from mlla_seg.data.formats.polygonise import Components, Strip, joined, pieces_of
from mlla_seg.data.formats.simplify import simplified_pieces


def rasters():
    rng = np.random.default_rng(0)
    yield "noise", rng.integers(0, 2, (40, 33)).astype(np.uint8)
    yield "noise of three values", rng.integers(0, 3, (37, 50)).astype(np.uint8)
    blobs = np.kron(rng.integers(0, 3, (9, 7)), np.ones((5, 6), int)).astype(np.uint8)
    blobs[rng.random(blobs.shape) < 0.1] = 1
    yield "speckled blobs", blobs
    rings = np.zeros((29, 29), np.uint8)
    for k in range(14):  # nested, with open ends and corners that touch
        rings[k : 29 - k, k : 29 - k] = k % 3
    rings[14, ::5] = 1
    yield "rings", rings
    comb = np.zeros((24, 25), np.uint8)
    comb[:-1, ::2] = 1  # teeth that only meet in the last row
    comb[-1] = 1
    yield "comb", comb


RASTERS = dict(rasters())


def by_strips(values, step, pieces=pieces_of, **options):
    height, _ = values.shape
    strips = (
        Strip(top, min(top + step, height), pieces(values[top : top + step], top)) for top in range(0, height, step)
    )
    return Components.together(list(joined(strips, values.shape, **options)))


def listed(components):
    return sorted(zip(components.values.tolist(), shapely.to_wkb(shapely.normalize(components.polygons)), strict=True))


@pytest.mark.parametrize("step", [1, 2, 7, 100])
@pytest.mark.parametrize("name", RASTERS)
def test_strips_give_the_polygons_of_the_whole(name, step):
    values = RASTERS[name]
    found, whole = by_strips(values, step), pieces_of(values)
    assert listed(found) == listed(whole)
    assert shapely.is_valid(found.polygons).all()
    np.testing.assert_array_equal(found.pixels, shapely.area(found.polygons))
    assert found.pixels.sum() == values.size


@pytest.mark.parametrize("step", [6, 100])
@pytest.mark.parametrize("name", RASTERS)
def test_simplified_neighbours_keep_a_common_border(name, step):
    if not hasattr(shapely, "coverage_simplify"):
        pytest.skip("needs shapely 2.1")
    values = np.kron(RASTERS[name], np.ones((2, 3), np.uint8))

    def pieces(part, top):
        bottom = top + len(part)
        above = values[top - 1] if top else None
        below = values[bottom] if bottom < len(values) else None
        return simplified_pieces(part, above, below, top, tolerance=2)

    found = by_strips(values, step, pieces, straight_points=True)
    assert len(found) == len(pieces_of(values))
    assert shapely.is_valid(found.polygons).all()
    assert shapely.coverage_is_valid(found.polygons)
    assert shapely.area(found.polygons).sum() == pytest.approx(values.size)


def test_a_simplified_disk_has_no_steps():
    if not hasattr(shapely, "coverage_simplify"):
        pytest.skip("needs shapely 2.1")
    row, column = np.mgrid[:100, :100]
    values = (np.hypot(row - 50, column - 50) < 40).astype(np.uint8)
    (exact,) = pieces_of(values, chosen=values == 1).polygons
    pieces = simplified_pieces(values, None, None, 0, tolerance=2)
    (found,) = pieces.polygons[pieces.values == 1]
    assert shapely.get_num_coordinates(found) < shapely.get_num_coordinates(exact) / 4
    assert found.symmetric_difference(exact).area < 0.02 * exact.area

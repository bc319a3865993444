"""Surface distances against brute force, SimpleITK and medpy, in millimetres, and without a surface."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from medpy.metric import binary as medpy
from scipy.ndimage import binary_erosion, gaussian_filter

from mlla_seg.evaluation.surface_distance import (
    case_surface_scores,
    element_distances,
    surface_distances,
    surface_scores,
)

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.8, 0.7), (0.5, 2.0, 3.0)]


def blobs(seed, shape=(9, 24, 31)):
    """Two overlapping regions of several components, some at the border."""
    rng = np.random.default_rng(seed)
    first, second = (gaussian_filter(rng.normal(size=shape), 2) for _ in range(2))
    return first > 0.06, 0.7 * first + 0.3 * second > 0.05


def brute_force(prediction, truth, spacing):
    """Distance from every surface voxel to the nearest one of the other surface, over all pairs."""

    def surface(region):
        return np.argwhere(region & ~binary_erosion(region)) * spacing

    pairs = np.linalg.norm(surface(prediction)[:, None] - surface(truth)[None], axis=-1)
    return pairs.min(axis=1), pairs.min(axis=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_equal_brute_force(seed, spacing):
    prediction, truth = blobs(seed)
    ours = surface_distances(torch.from_numpy(prediction), torch.from_numpy(truth), spacing)
    for mine, theirs in zip(ours, brute_force(prediction, truth, spacing), strict=True):
        np.testing.assert_allclose(np.sort(mine), np.sort(theirs), rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_scores_equal_medpy(seed, spacing):
    prediction, truth = blobs(seed)
    hd95, assd, nsd = surface_scores(torch.from_numpy(prediction), torch.from_numpy(truth), spacing, 1.0).tolist()
    there, back = brute_force(prediction, truth, spacing)
    assert hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert nsd == pytest.approx((np.concatenate((there, back)) <= 1.0).mean())
    both = len(there) + len(back)
    one_way = (medpy.asd(prediction, truth, spacing), medpy.asd(truth, prediction, spacing))
    assert assd == pytest.approx((one_way[0] * len(there) + one_way[1] * len(back)) / both)


def test_scores_equal_simpleitk_away_from_the_border():
    prediction, truth = (np.pad(region, 2) for region in blobs(5))
    spacing = (3.0, 0.9, 1.1)
    images = [sitk.GetImageFromArray(region.astype(np.uint8)) for region in (prediction, truth)]
    distances = []
    for image in images:
        image.SetSpacing(spacing[::-1])
        contour = sitk.LabelContour(image)
        far = sitk.SignedMaurerDistanceMap(contour, squaredDistance=False, useImageSpacing=True)
        distances.append((sitk.GetArrayFromImage(contour) > 0, np.abs(sitk.GetArrayFromImage(far))))
    (edge, from_edge), (true_edge, from_true_edge) = distances
    there, back = from_true_edge[edge], from_edge[true_edge]
    expected = (
        max(np.percentile(there, 95), np.percentile(back, 95)),
        np.concatenate((there, back)).mean(),
        (np.concatenate((there, back)) <= 2.0).mean(),
    )
    ours = surface_scores(torch.from_numpy(prediction), torch.from_numpy(truth), spacing, 2.0)
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_a_shift_by_hand():
    truth = torch.zeros(6, 10, 10, dtype=torch.bool)
    truth[2:4, 3:5, 3:5] = True
    shifted = truth.roll(1, dims=0)  # each voxel is a surface voxel; half of them have left the other's place
    hd95, assd, nsd = surface_scores(shifted, truth, (2.5, 1.0, 1.0), tolerance=2.0).tolist()
    assert (hd95, assd, nsd) == pytest.approx((2.5, 1.25, 0.5))
    assert surface_scores(truth, truth, (2.5, 1, 1), 0.0).tolist() == [0, 0, 1]


def test_what_is_missed_or_invented_has_the_diagonal_and_what_is_absent_nothing():
    empty, full = torch.zeros(4, 30, 40, dtype=torch.bool), torch.zeros(4, 30, 40, dtype=torch.bool)
    full[1, 2, 3] = True
    diagonal = math.sqrt((4 * 5) ** 2 + 30**2 + (40 * 2) ** 2)
    for pair in ((empty, full), (full, empty)):
        assert surface_scores(*pair, (5, 1, 2), 1.0).tolist() == pytest.approx([diagonal, diagonal, 0])
    assert surface_scores(empty, empty, (5, 1, 2), 1.0).isnan().all()


def test_a_single_slice_is_an_image_of_two_axes():
    truth = torch.zeros(1, 20, 20, dtype=torch.bool)
    truth[0, 5:15, 5:15] = True
    inner = truth.clone()
    inner[0, 9, 9] = False  # a hole in the middle: in three axes every voxel of a single slice would be surface
    hd95 = medpy.hd95(inner[0].numpy(), truth[0].numpy())
    there, back = surface_distances(inner[0], truth[0], (1, 1))
    assert np.percentile(np.concatenate((there, back)), 95) == pytest.approx(hd95)
    assert surface_scores(truth, inner, (1, 1, 1), 0.5)[2] < 1
    empty = torch.zeros_like(truth)
    assert surface_scores(empty, truth, (9, 1, 1), 1)[0].item() == pytest.approx(math.hypot(20, 20))


def test_every_class_of_a_case_without_what_is_ignored():
    mask = torch.zeros(3, 12, 12, dtype=torch.uint8)
    mask[:, 2:6, 2:6], mask[:, 8:, 8:] = 1, 2
    prediction = mask.clone()
    prediction[:, :, 10:] = 1
    mask[:, :, 10:] = 255
    scores = case_surface_scores(prediction, mask, 4, (1, 1, 1), 1.0)
    assert scores[0].isnan().all() and scores[3].isnan().all()
    assert scores[1].tolist() == scores[2].tolist() == [0, 0, 1]
    assert not case_surface_scores(prediction, mask, 4, (1, 1, 1), 1.0, background=None)[0].isnan().any()


def elements(start, stop, spacing):
    """Surface elements of a cuboid from ``start`` to ``stop`` in voxels, in plain Python: places and areas.

    Where 2 x 2 x 2 voxels hold one, two or four voxels of the cuboid, marching cubes cuts its edges in the middle: the
    element is a triangle at a corner, a rectangle along an edge, and a rectangle on a face.
    """
    places, areas = [], []
    for place in product(*(range(first - 1, last) for first, last in zip(start, stop, strict=True))):
        beyond = [k for k in range(3) if place[k] in (start[k] - 1, stop[k] - 1)]
        inner = [spacing[k] for k in range(3) if k not in beyond]
        half = [spacing[k] / 2 for k in beyond]
        if len(beyond) == 1:
            area = inner[0] * inner[1]
        elif len(beyond) == 2:
            area = inner[0] * math.hypot(*half)
        elif len(beyond) == 3:
            a, b, c = half
            area = math.hypot(a * b, b * c, a * c) / 2
        else:
            continue
        places.append([p * step for p, step in zip(place, spacing, strict=True)])
        areas.append(area)
    return places, areas


def by_area(first, second, tolerance):
    """HD95, ASSD and NSD of the elements of two surfaces, in plain Python and over all pairs."""
    sides = []
    for (own, areas), (others, _) in ((first, second), (second, first)):
        nearest = [min(math.dist(place, other) for other in others) for place in own]
        sides.append(sorted(zip(nearest, areas, strict=True)))
    percentiles = []
    for side in sides:
        total, reached = sum(area for _, area in side), 0.0
        for distance, area in side:
            reached += area
            if reached >= 0.95 * total:
                percentiles.append(distance)
                break
    both = sides[0] + sides[1]
    total = sum(area for _, area in both)
    within = sum(area for distance, area in both if distance <= tolerance)
    return max(percentiles), sum(distance * area for distance, area in both) / total, within / total


def cuboid(start, stop, shape=(9, 12, 13)):
    region = torch.zeros(shape, dtype=torch.bool)
    region[tuple(slice(first, last) for first, last in zip(start, stop, strict=True))] = True
    return region


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("second", [((2, 3, 2), (5, 8, 10)), ((4, 2, 4), (9, 12, 13))])
def test_scores_by_area_equal_their_definition(spacing, second):
    """Cuboids that overlap, one of them at the border of the image, whose elements lie outside the image in part."""
    first = ((2, 4, 3), (6, 8, 11))
    ours = surface_scores(cuboid(*first), cuboid(*second), spacing, 1.0, by_area=True)
    expected = by_area(elements(*first, spacing), elements(*second, spacing), 1.0)
    assert ours.tolist() == pytest.approx(expected, rel=1e-5)
    voxels = surface_scores(cuboid(*first), cuboid(*second), spacing, 1.0)
    assert voxels[1].item() != pytest.approx(ours[1].item(), rel=1e-3)  # another definition


def test_areas_of_a_cuboid_and_of_a_sphere():
    _, areas = elements((2, 2, 2), (7, 9, 11), (2.0, 1.0, 0.5))
    (_, found), _ = element_distances(cuboid((2, 2, 2), (7, 9, 11)), cuboid((2, 2, 2), (7, 9, 11)), (2.0, 1.0, 0.5))
    assert found.sum().item() == pytest.approx(sum(areas), rel=1e-6)
    inner, outer = (torch.from_numpy(np.linalg.norm(np.indices((60,) * 3) - 29.5, axis=0) < r) for r in (20, 23))
    hd95, assd, nsd = surface_scores(inner, outer, (1.0, 1.0, 1.0), 2.0, by_area=True).tolist()
    assert (hd95, assd) == pytest.approx((3, 3), abs=0.5) and nsd < 0.1  # 3 apart everywhere, but for the grid
    (_, area), (_, wider) = element_distances(inner, outer, (1.0, 1.0, 1.0))
    assert float(wider.sum() / area.sum()) == pytest.approx((23 / 20) ** 2, rel=0.02)
    assert float(area.sum()) == pytest.approx(4 * math.pi * 20**2, rel=0.12)  # stairs are longer than a slope


def test_in_a_single_slice_contours_are_weighted_by_length():
    """A shift along the rows: the sides of a rectangle lie on each other, the ends do not."""
    truth = torch.zeros(1, 20, 30, dtype=torch.bool)
    truth[0, 5:15, 5:25] = True
    (_, lengths), _ = element_distances(truth[0], truth[0], (2.0, 0.5))
    assert lengths.sum().item() == pytest.approx(2 * (9 * 2.0 + 19 * 0.5) + 4 * math.hypot(1.0, 0.25))
    hd95, assd, _ = surface_scores(truth.roll(3, dims=2), truth, (9.0, 2.0, 0.5), 0.1, by_area=True).tolist()
    assert hd95 == pytest.approx(1.5)
    corner, side, end = math.hypot(1.0, 0.25), 0.5, 2.0
    off = 2 * (2 * 9 * end * 1.5 + 2 * corner * 1.5 + 2 * side * (0.5 + 1.0))  # the last elements of both sides, too
    assert assd == pytest.approx(off / (2 * lengths.sum().item()))


def test_by_area_misses_are_treated_alike():
    empty, full = torch.zeros(4, 30, 40, dtype=torch.bool), torch.ones(4, 30, 40, dtype=torch.bool)
    for pair in ((empty, full), (full, empty), (empty, empty), (full, full)):
        one, other = (surface_scores(*pair, (5, 1, 2), 1.0, by_area) for by_area in (False, True))
        assert one.tolist() == pytest.approx(other.tolist(), nan_ok=True)

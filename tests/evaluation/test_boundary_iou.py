"""Boundary IoU: the published construction; unlabelled pixels create no edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlla_seg.evaluation.boundary_iou import boundary, boundary_counts


def random_regions(height=37, width=52, classes=3):
    coarse = np.random.default_rng(0).integers(classes, size=(2, height // 4 + 1, width // 4 + 1))
    return coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]


@pytest.mark.parametrize("width", [1, 3, 60])
def test_boundary_is_what_repeated_erosion_takes_away(width):
    """As in the paper: ``width`` erosions by 3 x 3, with zeros outside the image."""
    cv2 = pytest.importorskip("cv2")
    region = random_regions()[0] == 1
    padded = np.pad(region, 1).astype(np.uint8)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    np.testing.assert_array_equal(boundary(region, width), region & (eroded == 0))


def test_counts_by_hand():
    """A 6 x 6 square predicted one pixel to the right: rings of 20 pixels that share 10."""
    mask, prediction = torch.zeros(2, 1, 10, 10, dtype=torch.uint8)
    mask[0, 2:8, 2:8] = 1
    prediction[0, 2:8, 3:9] = 1
    counts = boundary_counts(prediction, mask, 3, width=1)
    assert counts[1].tolist() == [10, 30]
    assert counts[2].tolist() == [0, 0]
    assert boundary_counts(mask, mask, 3, width=1)[1].tolist() == [20, 20]


def test_what_is_ignored_is_not_counted_and_makes_no_edge():
    mask = torch.zeros(1, 20, 30, dtype=torch.uint8)
    mask[0, :, 15:] = 1
    mask[0, :, 13:17] = 255
    counts = boundary_counts(mask.where(mask != 255, 0), mask, 2, width=3)
    # Within 3 pixels of the border of the image, and of the other class: columns 13 to 16 are not known.
    inside = (20 - 6) * (13 - 3)
    assert counts.tolist() == [[20 * 13 - inside] * 2] * 2
    unknown = torch.full_like(mask, 255)
    assert boundary_counts(mask.where(mask != 255, 0), unknown, 2).tolist() == [[0, 0], [0, 0]]


def test_far_from_edges_mistakes_do_not_hide():
    """A large region with a frayed edge has a high IoU and a low boundary IoU."""
    truth, prediction = torch.zeros(2, 1, 200, 200, dtype=torch.uint8)
    truth[0, 20:180, 20:180] = 1
    prediction[0, 24:176, 24:176] = 1
    both, either = boundary_counts(prediction, truth, 2, width=3)[1].tolist()
    assert (prediction & truth).sum() / (prediction | truth).sum() > 0.9
    assert both / either == 0

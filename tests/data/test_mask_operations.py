"""Removal of components and filling of holes in masks of whole cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes

from mlla_seg.data.mask_operations import fill_holes, postprocessed


def two_organs():
    """Class 1: 27 and 8 voxels; class 2: 1 voxel that touches the larger one, and 2 elsewhere."""
    mask = np.zeros((6, 10, 12), np.uint8)
    mask[1:4, 1:4, 1:4] = 1
    mask[1:3, 7:9, 7:9] = 1
    mask[4, 4, 4] = 2
    mask[5, 0, 10:12] = 2
    return mask


def step(operation, *values, **more):
    return {"operation": operation, "values": list(values), **more}


def test_the_largest_component_of_each_class_stays():
    mask = two_organs()
    found = postprocessed(mask, [step("keep_largest", 1), step("keep_largest", 2)])
    assert (found == 1).sum() == 27 and found[5, 0, 10] == 2 and found[4, 4, 4] == 0
    assert (mask == two_organs()).all()


def test_classes_may_form_one_region():
    found = postprocessed(two_organs(), [step("keep_largest", 1, 2)])
    assert (found == 1).sum() == 27 and (found == 2).sum() == 1, "voxels that share a corner are connected"


@pytest.mark.parametrize(("size", "left"), [(8, 35), (9, 27), (28, 0)])
def test_components_below_a_size_are_removed(size, left):
    one = postprocessed(two_organs(), [step("minimum_size", 1, size=size, unit="voxels")])
    two = postprocessed(two_organs(), [step("minimum_size", 1, size=size / 2, unit="mm3")], voxel_mm3=0.5)
    assert (one == 1).sum() == (two == 1).sum() == left
    assert (one == 2).sum() == 3


def test_holes_of_a_class_are_filled_where_there_is_background():
    mask = np.zeros((7, 7, 7), np.uint8)
    mask[1:6, 1:6, 1:6] = 3
    mask[3, 3, 2:5] = 0, 5, 0
    found = postprocessed(mask, [step("fill_holes", 3)])
    assert found[3, 3].tolist() == [0, 3, 3, 5, 3, 3, 0]


def test_holes_are_scipys():
    region = np.random.default_rng(0).random((9, 14, 11)) < 0.75
    np.testing.assert_array_equal(fill_holes(region), binary_fill_holes(region))
    assert (fill_holes(region) != region).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_is_an_image(axis):
    image = np.zeros((9, 9), np.uint8)
    image[2:7, 2:7] = 1
    image[4, 4] = 0
    image[0, 0] = 1
    mask = np.expand_dims(image, axis)
    found = postprocessed(mask, [step("fill_holes", 1), step("keep_largest", 1)])
    assert found.shape == mask.shape and found.sum() == 25


def test_axes_and_values_do_not_matter():
    mask, steps = two_organs(), [step("minimum_size", 1, 2, size=3, unit="voxels"), step("keep_largest", 1)]
    turned = np.flip(mask.transpose(2, 0, 1), 1)
    found = np.flip(postprocessed(turned, steps), 1).transpose(1, 2, 0)
    np.testing.assert_array_equal(found, postprocessed(mask, steps))
    other = [{**one, "values": [300 + value for value in one["values"]]} for one in steps]
    shifted = postprocessed(mask.astype(np.int16) + 300, other, background=300)
    np.testing.assert_array_equal(shifted - 300, postprocessed(mask, steps))


def test_a_class_that_is_absent_changes_nothing():
    mask = np.zeros((1, 1, 1), np.uint8)
    for operation in ("keep_largest", "fill_holes"):
        assert (postprocessed(mask, [step(operation, 1)]) == mask).all()
    assert postprocessed(mask + 1, [step("keep_largest", 1)]).item() == 1

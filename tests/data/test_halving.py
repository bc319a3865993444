"""Strides by nnU-Net's rule, and patches that they divide."""

from __future__ import annotations

import math

import pytest

from mlla_seg.data.halving import known_spacing, patch_for, strides_for, total_strides


@pytest.mark.parametrize(
    ("spacing", "patch_size", "slices", "rows"),
    [
        ((1.0, 1.0, 1.0), (128, 128, 128), [2, 2, 2, 2, 2], [2, 2, 2, 2, 2]),
        ((1.0, 1.0, 1.0), (40, 56, 40), [2, 2, 2, 1, 1], [2, 2, 2, 1, 1]),  # hippocampus: 40 to 5, 56 to 7
        ((10.0, 1.56, 1.56), (10, 256, 224), [1, 1, 2, 1, 1], [2, 2, 2, 2, 2]),  # ACDC: 1.56 to 6.24 mm first
        ((5.0, 0.75, 0.75), (12, 192, 192), [1, 1, 2, 1, 1], [2, 2, 2, 2, 2]),
        ((2.0, 1.0, 1.0), (32, 64, 64), [1, 2, 2, 2, 1], [2, 2, 2, 2, 1]),  # a factor of 2 is not within 2
        ((1.0, 9.0, 9.0), (11, 4, 4), [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]),  # one axis alone, from 11 to 6
    ],
)
def test_strides_are_those_of_nnunet(spacing, patch_size, slices, rows):
    strides = strides_for(spacing, patch_size)
    assert [step[0] for step in strides] == slices
    assert [step[1] for step in strides] == rows


@pytest.mark.parametrize(
    ("shape", "spacing", "voxels", "patch"),
    [
        ((36, 50, 35), (1.0, 1.0, 1.0), 10**6, [40, 56, 40]),  # hippocampus: whole
        ((10, 216, 256), (10.0, 1.56, 1.56), 10**6, [10, 224, 256]),  # ACDC: whole
        ((10, 216, 256), (10.0, 1.56, 1.56), 10**5, [10, 96, 96]),  # slices, which are few, stay
        ((200, 512, 512), (2.5, 0.8, 0.8), 2**20, [48, 128, 160]),  # about 120 mm along each axis
        ((1000, 512, 512), (1.0, 1.0, 1.0), 2**20, [96, 96, 112]),
        ((4, 6, 5), (1.0, 1.0, 1.0), 10**6, [4, 6, 5]),
        ((36, 50, 35), (1.0, 1.0, 1.0), 1, [1, 1, 1]),
    ],
)
def test_patches_are_whole_volumes_or_as_long_along_each_axis(shape, spacing, voxels, patch):
    found = patch_for(shape, spacing, voxels)
    assert found == patch
    assert math.prod(found) <= voxels
    assert all(side % step == 0 for side, step in zip(found, total_strides(strides_for(spacing, found)), strict=True))


@pytest.mark.parametrize(
    ("spacing_mm", "sizes", "expected"),
    [
        ((5.0, 1.0, 1.0), (10, 200, 200), [5.0, 1.0, 1.0]),
        ((None, 2.0, 1.0), (10, 200, 200), [1.0, 2.0, 1.0]),
        (None, (10, 200, 240), [22.0, 1.0, 1.0]),
        (None, (400, 200, 240), [1.0, 1.0, 1.0]),
    ],
)
def test_spacing_that_no_file_gives_is_guessed_from_the_size(spacing_mm, sizes, expected):
    assert known_spacing(spacing_mm, sizes) == expected

"""NumPy resizing against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mlla_seg.data import resampling
from mlla_seg.runtime import resize

SIZES = [((50, 60), (37, 90)), ((7, 9), (20, 20)), ((64, 64), (16, 17)), ((1, 5), (3, 4)), ((300, 200), (112, 96))]


@pytest.mark.parametrize(("stored", "wanted"), SIZES)
def test_arrays_are_resized_as_tensors_are(stored, wanted):
    images = np.random.default_rng(0).normal(size=(2, 3, *stored)).astype(np.float32)
    tensors = torch.from_numpy(images)
    cubic = resize.resize_images(images, wanted)
    assert cubic.dtype == np.float32
    np.testing.assert_allclose(cubic, resampling.resize_images(tensors, wanted), atol=1e-5)
    linear = F.interpolate(tensors, wanted, mode="bilinear", align_corners=False)
    # Places of pixels are rounded in float32, by some processors once and by others twice.
    np.testing.assert_allclose(resize.resize_logits(images, wanted), linear, atol=1e-4)


def test_the_same_size_is_the_same_array():
    images = np.zeros((1, 1, 4, 5), np.float32)
    assert resize.resize_images(images, (4, 5)) is images
    assert resize.resize_logits(images, (4, 5)) is images


def test_gaps_are_filled_as_in_tensors():
    images = np.random.default_rng(0).normal(40, 10, (2, 3, 8, 9)).astype(np.float32)
    assert resize.fill_gaps(images) is images
    images[0, 0, 2:5] = np.nan
    images[1, 2] = np.nan
    filled = resize.fill_gaps(images)
    np.testing.assert_allclose(filled, resampling.fill_gaps(torch.from_numpy(images)), rtol=1e-6)
    assert (filled[1, 2] == 0).all()
    assert filled.dtype == np.float32

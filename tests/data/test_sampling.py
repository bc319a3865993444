"""Samples of values and positions: the requested number, spread evenly, whatever the count."""

from __future__ import annotations

import numpy as np
import pytest

from mlla_seg.data import sampling
from mlla_seg.data.sampling import PLACES, SAMPLE, class_places, value_sample


def awkward(limit):
    return [1, limit - 1, limit, limit + 1, 2 * limit - 1, 2 * limit, 2 * limit + 1, 100_001]


@pytest.fixture(params=[2**24, 37 * 512], ids=["at once", "in parts"])
def parts(request, monkeypatch):
    monkeypatch.setattr(sampling, "PART", request.param)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("count", awkward(PLACES))
def test_places_are_spread_over_all_of_a_class(count):
    mask = np.zeros((2, 512, 512), np.uint8)
    where = np.linspace(0, mask.size - 1, count).astype(int)
    mask.reshape(-1)[where] = 1
    places = class_places(mask, np.bincount(mask.ravel(), minlength=2))
    own = places[places[:, 0] == 1]
    assert len(own) == min(count, PLACES)
    assert (mask[own[:, 1], own[:, 2], own[:, 3]] == 1).all()
    order = np.searchsorted(where, np.ravel_multi_index(own[:, 1:].T, mask.shape))
    gaps = np.diff([-1, *order, count])
    assert gaps.min() >= 1  # each once
    assert gaps.max() - 1 <= count / PLACES + 1  # none is far from a chosen one


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("count", awkward(SAMPLE))
def test_values_have_the_mean_of_all_pixels_that_count(count):
    image = np.zeros((2, 1, 300, 400), np.float32)
    mask = np.zeros((2, 300, 400), np.uint8)
    where = np.linspace(0, mask.size - 1, count).astype(int)
    mask.reshape(-1)[where] = 1
    image.reshape(-1)[where] = np.arange(count)
    values = value_sample(image, mask, (0,))
    assert values.shape == (1, min(count, SAMPLE))
    assert len(np.unique(values)) == values.size
    step = max(1, count / SAMPLE)
    assert values.mean() == pytest.approx((count - 1) / 2, abs=step)
    assert values.max() >= count - 1 - step


def test_foreground_of_a_volume_is_measured_as_it_is():
    slices = 10.0 * np.arange(20, dtype=np.float32)
    image = np.broadcast_to(slices[:, None, None, None], (20, 1, 30, 30))
    values = value_sample(image, np.ones((20, 30, 30), np.uint8), (255, 0))
    assert values.shape == (1, SAMPLE)
    assert values.mean() == pytest.approx(95.0, abs=0.05)
    assert np.bincount((values[0] / 10).astype(int), minlength=20).tolist() == [500] * 20

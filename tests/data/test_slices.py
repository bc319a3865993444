"""Slices as the network sees them: neighbours beyond the ends, and moments of whole cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlla_seg.data.slices import case_moments, slices_at, standardised

RAMP = np.arange(6, dtype=np.float32)[:, None, None, None]  # (S, C, H, W)


@pytest.mark.parametrize("wrap", [np.asarray, torch.as_tensor], ids=["array", "tensor"])
@pytest.mark.parametrize(
    ("slices", "expected"), [(None, [[0, 0, 1], [4, 5, 5]]), (3, [[0.5, 0.5, 2.5], [2.5, 4.5, 4.5]])]
)
def test_outer_slices_are_their_own_neighbours(wrap, slices, expected):
    seen = slices_at(wrap(RAMP), [0, (slices or 6) - 1], context=1, slices=slices)
    np.testing.assert_allclose(np.asarray(seen)[:, :, 0, 0], expected)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_cases_are_standardised_whatever_their_scale(scale):
    volume = np.random.default_rng(0).normal(3, 1, (5, 2, 16, 16)).astype(np.float32) * np.float32(scale)
    volume[0, 0, 0, 0] = np.nan
    values = standardised(volume, case_moments(volume))
    np.testing.assert_allclose(np.nanmean(values, axis=(0, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(np.nanstd(values, axis=(0, 2, 3)), 1, atol=1e-3)


def test_each_channel_of_a_case_has_its_own_scheme():
    volume = np.random.default_rng(0).normal(30, 5, (4, 3, 9, 8)).astype(np.float32)
    shift, scale = case_moments(volume, ("zscore", None, "rescale_to_0_1"))
    one, untouched, other = np.moveaxis(standardised(volume, (shift, scale)), 1, 0)
    assert (one.mean(), one.std()) == pytest.approx((0, 1), abs=1e-5)
    np.testing.assert_array_equal(untouched, volume[:, 1])
    assert (other.min(), other.max()) == pytest.approx((0, 1))


def test_moments_do_not_depend_on_the_pieces_of_a_case(monkeypatch):
    case = np.random.default_rng(0).normal(1000, 3, (1, 2, 50, 40)).astype(np.float32)
    case[0, 0, :7] = np.nan  # without data
    whole = case_moments(case)
    strips = case_moments([case[0, :, top : top + 11] for top in range(0, 50, 11)])
    monkeypatch.setattr("mlla_seg.data.slices.PART", 40 * 9)
    for one, other, third in zip(whole, strips, case_moments(case), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
        np.testing.assert_allclose(one, third, rtol=1e-5)


def test_a_constant_case_is_zero():
    volume = np.full((2, 1, 4, 4), 7, np.int16)
    assert not standardised(volume.astype(np.float32), case_moments(volume)).any()

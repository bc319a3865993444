"""Spread over cases, and intervals over patients that hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mlla_seg.evaluation.spread import Spread, spreads

NAN = math.nan


def spread(values, patients, **how):
    return spreads({"score": values}, patients, **how)["score"]


def test_mean_deviation_and_quartiles_are_those_of_numpy():
    values = np.array([[0.9, 0.2], [0.7, NAN], [0.8, 0.6], [0.4, 0.4]])
    first, second, mean = spread(values, ["a", "b", "c", "d"])
    assert (first.mean, first.sd) == (pytest.approx(0.7), pytest.approx(np.std(values[:, 0], ddof=1)))
    assert [first.first_quartile, first.median, first.third_quartile] == pytest.approx([0.625, 0.75, 0.825])
    assert (first.cases, second.cases, mean.cases) == (4, 3, 4)
    assert (second.mean, second.median) == pytest.approx((0.4, 0.4))
    assert mean.mean == pytest.approx(0.55)  # of the classes, not of the cases, whose mean is 0.5875
    assert mean.median == pytest.approx(np.median([0.55, 0.7, 0.7, 0.4]))


def test_for_one_case_a_patient_the_interval_is_students():
    values = np.random.default_rng(0).normal(20, 5, size=(30, 1))
    found = spread(values, [str(i) for i in range(30)], unbounded=["score"], resamples=40_000)[0]
    expected = stats.t.interval(0.95, 29, loc=values.mean(), scale=stats.sem(values[:, 0]))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.1)


def test_cases_of_one_patient_count_as_one():
    """Ten copies of each patient say no more than one."""
    values = np.random.default_rng(1).uniform(size=(8, 1))
    once = spread(values, list("abcdefgh"))[0]
    often = spread(values.repeat(10, axis=0), [name for name in "abcdefgh" for _ in range(10)])[0]
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    alone = spread(values.repeat(10, axis=0), [str(i) for i in range(80)])[0]
    assert alone.high - alone.low < 0.5 * (once.high - once.low)


def test_what_cannot_be_known_is_not_a_number():
    one, none, _ = spread(np.array([[0.5, NAN], [0.7, NAN], [NAN, NAN]]), ["a", "a", "b"])
    assert (one.mean, one.cases) == (pytest.approx(0.6), 2)
    assert math.isnan(one.low) and math.isnan(one.high)  # a single patient has the class
    assert none.cases == 0
    assert all(math.isnan(value) for value in vars(none).values() if value != 0)
    single = spread(np.array([[0.5]]), ["a"])[0]
    assert isinstance(single, Spread) and math.isnan(single.sd) and single.median == 0.5


def test_scores_do_not_mix():
    rng = np.random.default_rng(2)
    dice, distance = rng.uniform(size=(9, 2)), rng.uniform(5, 9, size=(9, 2))
    found = spreads({"dice": dice, "hd95": distance}, list("abcdefghi"), unbounded=["hd95"])
    assert found["dice"] == spread(dice, list("abcdefghi"))
    assert found["hd95"] == spread(distance, list("abcdefghi"), unbounded=["score"])
    assert found["hd95"][2].low > 5


def test_many_cases_are_drawn_in_blocks(monkeypatch):
    values, names = np.random.default_rng(3).uniform(size=(50, 2)), [str(i) for i in range(50)]
    whole = spread(values, names)
    monkeypatch.setattr("mlla_seg.evaluation.spread.DRAWN", 700)
    assert spread(values, names) == whole


def test_limits_stay_within_the_bounds():
    found = spread(np.array([[1.0], [0.99], [0.2]]), ["a", "b", "c"])[0]
    assert found.high == 1
    assert 0 <= found.low < found.mean


@pytest.mark.parametrize("patients", [4, 12])
def test_95_of_100_intervals_hold_the_true_mean(patients):
    rng = np.random.default_rng(patients)
    groups = [str(i) for i in range(patients) for _ in range(2)]
    hits = 0
    for k in range(300):
        own = 50 + rng.normal(0, 1, size=patients).repeat(2) + rng.normal(0, 0.3, size=2 * patients)
        found = spread(own[:, None], groups, unbounded=["score"], resamples=500, seed=k)[0]
        hits += found.low <= 50 <= found.high
    assert 0.91 <= hits / 300 <= 0.985

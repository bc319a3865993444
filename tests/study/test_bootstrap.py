"""Intervals of differences: coverage with few seeds, power, single seeds, Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest

from mlla_seg.study.bootstrap import Difference, bootstrap, holm

PATIENTS = [f"patient {k}" for k in range(30)]


def mean_of(scores):
    """The score of runs whose cases have these scores ``(N, seeds)``."""
    return lambda weights: weights @ scores / weights.sum(axis=1, keepdims=True)


def draw(rng, seeds, effect=0.0, of_patients=0.5, of_seeds=0.5, noise=0.5, designs=2):
    """Scores ``(30, seeds)`` of each design; patients differ alike for all designs, and in part by the design."""
    alike = rng.normal(0, 2, (len(PATIENTS), 1))
    return [
        alike
        + rng.normal(0, of_patients, (len(PATIENTS), 1))
        + rng.normal(0, of_seeds, (1, seeds))
        + rng.normal(0, noise, (len(PATIENTS), seeds))
        + effect * k
        for k in range(designs)
    ]


def shown(found: Difference) -> bool:
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0) or 0.045 < found.p < 0.055
    return found.low > 0 or found.high < 0


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    "spread",
    [{}, {"of_seeds": 1.0, "of_patients": 0.1}, {"of_seeds": 1.0, "of_patients": 0.0, "noise": 0.0}],
    ids=["both", "mostly seeds", "seeds alone"],
)
def test_designs_that_do_not_differ_are_rarely_told_apart(seeds, spread):
    rng = np.random.default_rng(2024)
    wrong = 0
    for _ in range(400):
        one, other = draw(rng, seeds, **spread)
        wrong += shown(bootstrap(mean_of(one), mean_of(other), PATIENTS, resamples=1000))
    assert 0.005 <= wrong / 400 <= 0.09


def test_patients_alone_would_tell_seeds_apart():
    """What this is for: the same network, trained with two seeds, differs over the patients."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        one, other = draw(rng, 1)
        wrong += shown(bootstrap(mean_of(one), mean_of(other), PATIENTS, resamples=1000))
    assert wrong > 40


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_true_difference_is_found_and_its_interval_holds_it(seeds):
    rng = np.random.default_rng(7)
    found = []
    for _ in range(100):
        one, other = draw(rng, seeds, effect=2.0)
        found.append(bootstrap(mean_of(one), mean_of(other), PATIENTS, resamples=1000))
    assert sum(one.low > 0 for one in found) >= 80
    assert sum(one.low <= 2.0 <= one.high for one in found) >= 90


def test_the_same_scores_differ_by_nothing_and_the_numbers_are_repeatable():
    (scores,) = draw(np.random.default_rng(0), 3, designs=1)
    same = bootstrap(mean_of(scores), mean_of(scores), PATIENTS, resamples=500)
    assert same.value == 0
    assert same.low < 0 < same.high  # by the seeds, which are drawn separately
    again = bootstrap(mean_of(scores), mean_of(scores + 1), PATIENTS, resamples=500)
    assert again == bootstrap(mean_of(scores), mean_of(scores + 1), PATIENTS, resamples=500)
    assert again.value == pytest.approx(1)
    constant = np.full((len(PATIENTS), 2), 0.5)
    assert bootstrap(mean_of(constant), mean_of(constant), PATIENTS, resamples=100) == Difference(0.0, 0.0, 0.0, 1.0)


def test_an_interval_over_patients_is_that_of_students_t():
    rng = np.random.default_rng(3)
    one, other = draw(rng, 1)
    found = bootstrap(mean_of(one), mean_of(other), PATIENTS)
    differences = (other - one)[:, 0]
    half = 2.045 * differences.std(ddof=1) / 30**0.5  # t with 29 degrees of freedom
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_cases_of_a_patient_are_drawn_together():
    rng = np.random.default_rng(3)
    one, other = draw(rng, 1)
    alone = bootstrap(mean_of(one), mean_of(other), PATIENTS)
    twice = bootstrap(mean_of(np.repeat(one, 2, 0)), mean_of(np.repeat(other, 2, 0)), np.repeat(PATIENTS, 2).tolist())
    assert (twice.low, twice.high) == pytest.approx((alone.low, alone.high))  # copies tell nothing new


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []

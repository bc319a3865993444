"""Spread of scores over cases, and confidence intervals of their means by a bootstrap over patients.

Patients are drawn with replacement, and each brings all of its cases, because cases of a patient resemble each other.
Two corrections make it hold for few patients (Davison and Hinkley, "Bootstrap Methods and their Application", 1997):

* With n of them, the bootstrap's variance of a mean is (n - 1) / n of the unbiased one, so deviations are multiplied by
  sqrt(n / (n - 1)).
* The deviations are stretched from the normal distribution to Student's t with n - 1 degrees of freedom, or for a sum
  of deviations of several sources with those of Welch and Satterthwaite.

The interval is about other patients of the same kind, not about another training of the network: see ``compare``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlla_seg.data.formats.picture import Array

RESAMPLES = 10_000
LEVEL = 0.95
DRAWN = 2**22
"""Most cases drawn at once, in all resamples together."""


@dataclass(frozen=True)
class Spread:
    """A score over cases: mean with its 95 % interval over patients, deviation and quartiles; NaN if unknown."""

    mean: float
    low: float
    high: float
    sd: float
    median: float
    first_quartile: float
    third_quartile: float
    cases: int


NOTHING = Spread(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 0)
"""Spread of a class that no case has."""


def spreads(
    scores: Mapping[str, Array],
    patients: Sequence[str],
    unbounded: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, list[Spread]]:
    """Return the spread of each score for each of K classes, and last that of its mean over classes.

    The mean over classes is the mean of the K means, as everywhere; its deviation and quartiles are those of the means
    of the cases. A class that only one patient has gets no interval.

    Args:
        scores: Scores ``(N, K)`` of N cases by name, NaN where a case has none.
        patients: The patient of each case.
        unbounded: Names of scores from 0 to infinity; others are at most 1, and so are the limits of their intervals.
        resamples: Number of resamples R.
        seed: Seed of the resampling.
    """
    stacked = np.concatenate(list(scores.values()), axis=1)
    drawn = _resampled(stacked, patients, resamples, np.random.default_rng(seed))
    found = {}
    for (name, values), of_score in zip(scores.items(), np.split(drawn, len(scores), axis=1), strict=True):
        means = _class_means(values, np.ones((1, len(values))))
        columns = [*values.T, _mean_of_known(values)]
        centres = [*means[0], _mean_of_known(means)[0]]
        resampled = [*of_score.T, _mean_of_known(of_score)]
        most = math.inf if name in unbounded else 1.0
        found[name] = [_spread(*each, patients, most) for each in zip(columns, centres, resampled, strict=True)]
    return found


def _spread(values: Array, mean: float, resampled: Array, patients: Sequence[str], most: float) -> Spread:
    known = np.isfinite(values)
    count = len({patient for patient, here in zip(patients, known, strict=True) if here})
    if not count:
        return NOTHING
    low = high = math.nan
    if count > 1:
        deviations = (resampled[np.isfinite(resampled)] - mean) * unbiased(count)
        low, high = interval(np.clip(mean + stretched([deviations], [count]), 0, most))
    sd = float(values[known].std(ddof=1)) if known.sum() > 1 else math.nan
    median, first, third = np.percentile(values[known], (50, 25, 75)).tolist()
    return Spread(float(mean), low, high, sd, median, first, third, int(known.sum()))


def _resampled(values: Array, patients: Sequence[str], resamples: int, rng: np.random.Generator) -> Array:
    """Return the mean of each class ``(R, K)`` in resamples, in blocks, so that many cases take little memory."""
    block = max(1, DRAWN // len(values))
    counts = [min(block, resamples - start) for start in range(0, resamples, block)]
    return np.concatenate([_class_means(values, patient_weights(patients, count, rng)[0]) for count in counts])


def _class_means(values: Array, weights: Array) -> Array:
    """Return the mean of each class ``(R, K)`` over weighted cases ``(R, N)``, without those that have no score."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: Array = weights @ np.where(known, values, 0) / (weights @ known)
    return means


def _mean_of_known(values: Array) -> Array:
    """Return the mean over the last axis without NaN; NaN where nothing is known."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: Array = np.where(known, values, 0).sum(axis=-1) / known.sum(axis=-1)
    return means


def patient_weights(patients: Sequence[str], resamples: int, rng: np.random.Generator) -> tuple[Array, int]:
    """Return how often each of N cases is drawn in each resample, ``(R, N)``, and the number of patients.

    Args:
        patients: The patient of each case.
        resamples: Number of resamples R.
        rng: Source of the draws.
    """
    names, patient = np.unique(np.asarray(patients), return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return drawn[:, patient].astype(float), len(names)


def unbiased(size: int) -> float:
    """Return the factor for deviations of a bootstrap over ``size`` members; 0 for a single one, which has none."""
    return (size / (size - 1)) ** 0.5 if size > 1 else 0.0


def stretched(deviations: Sequence[Array], sizes: Sequence[int]) -> Array:
    """Return the sum of deviations ``(R,)`` of several sources, stretched from the normal distribution to Student's t.

    Args:
        deviations: Deviations of each source, ``(R,)``.
        sizes: Number of members that each source was drawn from.
    """
    from scipy.special import ndtr, stdtrit

    total = np.sum(deviations, axis=0)
    variances = [float(part.var()) for part in deviations]
    spread = float(total.std())
    if spread == 0:
        return total
    known = [(variance, size - 1) for variance, size in zip(variances, sizes, strict=True) if size > 1]
    freedom = sum(variance for variance, _ in known) ** 2 / sum(variance**2 / free for variance, free in known)
    return -np.sign(total) * spread * stdtrit(freedom, ndtr(-np.abs(total) / spread))


def interval(sample: Array) -> tuple[float, float]:
    """Return the limits that leave out ``1 - LEVEL`` of a sample ``(R,)``, half of it on either side."""
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(sample, (tail, 100 - tail))
    return float(low), float(high)


@dataclass(frozen=True)
class Gain:
    """Mean score of the same cases before and after a change, and its gain with a 95 % interval over patients."""

    before: float
    after: float
    low: float
    high: float
    better: int
    worse: int

    @property
    def value(self) -> float:
        """The gain."""
        return self.after - self.before

    def interval_in_words(self) -> str:
        """Return the interval, or a dash if it is unknown."""
        return "-" if math.isnan(self.low) else f"{self.low:+.4f} to {self.high:+.4f}"


def paired_difference(
    before: Array, after: Array, patients: Sequence[str], resamples: int = 2000, seed: int = 0
) -> list[Gain]:
    """Return the gain of each of K classes, and last that of the mean over classes.

    A case that has no score on one side, such as one without the class whose hallucination is removed, counts on the
    other side alone.

    Args:
        before: Scores ``(N, K)``, NaN where a case has none.
        after: Those of the same cases after the change.
        patients: The patient of each case.
        resamples: Number of resamples R.
        seed: Seed of the resampling.
    """
    drawn = _resampled(np.concatenate((before, after), axis=1), patients, resamples, np.random.default_rng(seed))
    sides = [_with_mean(part) for part in np.split(drawn, 2, axis=1)]
    was, now = (_with_mean(_class_means(values, np.ones((1, len(values)))))[0] for values in (before, after))
    found = []
    for k, samples in enumerate((sides[1] - sides[0]).T):
        low = high = math.nan
        if (count := len(set(patients))) > 1 and np.isfinite(now[k] - was[k]):
            gain = now[k] - was[k]
            deviations = (samples[np.isfinite(samples)] - gain) * unbiased(count)
            low, high = interval(gain + stretched([deviations], [count]))
        one, two = (_with_mean(values)[:, k] for values in (before, after))
        one, two = (np.where(np.isfinite(part), part, 1.0) for part in (one, two))  # absent and not found: right
        found.append(Gain(float(was[k]), float(now[k]), low, high, int((two > one).sum()), int((two < one).sum())))
    return found


def _with_mean(values: Array) -> Array:
    """Append the mean over classes to ``(R, K)``."""
    return np.concatenate((values, _mean_of_known(values)[:, None]), axis=1)

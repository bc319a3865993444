"""Differences between two designs, with intervals over patients and over training seeds.

A design's score changes with the patients it is tested on and with the seed it is trained with. A test over the cases
of one run each, such as Wilcoxon's, knows only the first: it would call two trainings of one network different designs.
So both are resampled here:

1. Patients are drawn with replacement, the same for both sides, as the comparison is paired; a patient brings all of
   its cases. Each run is scored anew on the drawn cases.
2. On each side, seeds are drawn with replacement, independently, as seed 0 of one network has nothing to do with seed 0
   of another.

(Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007; it errs on the wide side where patients and seeds
interact.) The corrections for few members (:mod:`mlla_seg.evaluation.spread`) hold for patients and seeds alike: three
seeds do not tell their own spread well, and without the stretch to Student's t, with the degrees of freedom of the sum
of the three variances (patients, seeds of either side), intervals are too narrow whenever the seeds dominate.

The 95 % interval and the two-sided p-value are percentiles of the same stretched deviations, so they agree. The tests
simulate studies without a true difference and count the intervals that exclude zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.evaluation.spread import RESAMPLES, interval, patient_weights, stretched, unbiased

Score: TypeAlias = Callable[[Array], Array]
"""Scores the runs of one side: maps weights of the cases ``(R, N)`` to scores ``(R, seeds)``."""


@dataclass(frozen=True)
class Difference:
    """A difference of mean scores, with its 95 % interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p: float


def bootstrap(
    reference: Score, other: Score, groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Return the difference of ``other`` to ``reference``, both averaged over their seeds; see the module.

    A level with a single member, such as the only seed of a side, is not resampled: the interval knows nothing of it.

    Args:
        reference: Score of the runs of the first side.
        other: Score of the runs of the second side, on the same cases.
        groups: The patient of each of the N cases.
        resamples: Number of resamples R.
        seed: Seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    weights, patients = patient_weights(groups, resamples, rng)
    whole = np.ones((1, len(groups)))
    value = float(other(whole).mean() - reference(whole).mean())
    sides = [reference(weights), other(weights)]
    known = np.isfinite(sides[0]).all(axis=1) & np.isfinite(sides[1]).all(
        axis=1
    )  # without: no class in the drawn cases
    sides, resamples = [side[known] for side in sides], int(known.sum())
    deviations = [(sides[1].mean(axis=1) - sides[0].mean(axis=1) - value) * unbiased(patients)]
    deviations += [sign * _seed_deviations(side, rng) for sign, side in zip((-1, 1), sides, strict=True)]
    sizes = [patients, *(side.shape[1] for side in sides)]
    sample = value + stretched(deviations, sizes)
    low, high = interval(sample)
    beyond = min((sample <= 0).sum(), (sample >= 0).sum())
    return Difference(value, low, high, min(1.0, 2 * (int(beyond) + 1) / (resamples + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method."""
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(order), 0, -1) * np.asarray(p_values, dtype=float)[order]
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected.tolist()


def _seed_deviations(scores: Array, rng: np.random.Generator) -> Array:
    """Return deviations of the mean over resampled seeds ``(R,)`` from scores ``(R, seeds)``."""
    resamples, seeds = scores.shape
    drawn = np.take_along_axis(scores, rng.integers(seeds, size=(resamples, seeds)), axis=1)
    return (drawn.mean(axis=1) - scores.mean(axis=1)) * unbiased(seeds)

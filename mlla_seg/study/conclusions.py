"""Differences between designs over the same cases, and what may be concluded from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlla_seg.study.bootstrap import Difference, bootstrap, holm
from mlla_seg.study.scores import (
    LOWER_IS_BETTER,
    METRICS,
    Scored,
    require_alike,
    scores_of,
)

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """One design against the reference.

    Args:
        name: The design.
        reference: The design it is compared with.
        metric: Name of the score.
        difference: Of the means over seeds, to the reference.
        seeds: Number of seeds of the design and of the reference.
        units: What was resampled beside the seeds: a number, and the name from :func:`units`.
        spread: Difference of each single run to the mean of the reference.
        holm: p-value corrected for the number of comparisons; None where the seeds could not be sampled.
    """

    name: str
    reference: str
    metric: str
    difference: Difference
    seeds: tuple[int, int]
    units: tuple[int, str]
    spread: tuple[float, ...]
    holm: float | None = None

    @property
    def sampled(self) -> bool:
        """Whether patients and the seeds of both sides were sampled, without which nothing follows."""
        return min(*self.seeds, self.units[0]) > 1

    @property
    def shown(self) -> bool:
        """Whether a difference between the designs is shown."""
        apart = self.difference.low > 0 or self.difference.high < 0
        return self.sampled and apart and self.holm is not None and self.holm < ALPHA


def compared(
    designs: Mapping[str, Sequence[Scored]], metric: str, titles: Mapping[str, str] | None = None
) -> list[Comparison]:
    """Return each design compared with the first, corrected for the number of comparisons.

    Args:
        designs: Runs of each design, by its name; the first is the reference.
        metric: Name of the score.
        titles: Titles to show instead of the names.

    Raises:
        InputError: Runs were scored on other cases or in another way.
    """
    (reference, first), *others = designs.items()
    require_alike([run for runs in designs.values() for run in runs], metric)
    groups, unit = units(first[0])
    everything = np.ones((1, len(groups)))
    base = scores_of(first, metric)
    found = []
    for name, runs in others:
        score = scores_of(runs, metric)
        spread = score(everything)[0] - base(everything).mean()
        sizes = (len(runs), len(first)), (len(set(groups)), unit)
        known = titles or {}
        shown = known.get(name, name), known.get(reference, reference)
        found.append(Comparison(*shown, metric, bootstrap(base, score, groups), *sizes, tuple(spread.tolist())))
    family = [one for one in found if one.sampled]
    corrected = dict(zip(map(id, family), holm([one.difference.p for one in family]), strict=True))
    return [replace(one, holm=corrected.get(id(one))) for one in found]


def units(run: Scored) -> tuple[tuple[str, ...], str]:
    """Return the unit that is resampled of each case, and its name: patients; cases if all are of one patient."""
    if len(set(run.patients)) == 1:
        return run.cases, "cases"
    return run.patients, "images" if run.single_images and run.patients == run.cases else "patients"


def table(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows: difference, interval and p-values of each comparison."""
    header = [f"{METRICS[comparisons[0].metric]} against {comparisons[0].reference}", "seeds", "difference"]
    rows: list[list[Any]] = [
        [
            one.name,
            f"{one.seeds[0]} / {one.seeds[1]}",
            _signed(one.difference.value),
            f"{_signed(one.difference.low)} .. {_signed(one.difference.high)}",
            f"{one.difference.p:.4f}",
            "-" if one.holm is None else f"{one.holm:.4f}",
        ]
        for one in comparisons
    ]
    return [*header, "95 % interval", "p", "p (Holm)"], rows


def published(
    designs: Mapping[str, Sequence[Scored]], comparisons: Sequence[Comparison]
) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of a table for a paper: every design with its score, and what differs from the first."""
    metric = comparisons[0].metric
    header = ["design", "seeds", METRICS[metric], "difference", "95 % interval", "p (Holm)"]
    rows = []
    for k, (name, runs) in enumerate(designs.items()):
        scores = scores_of(runs, metric)(np.ones((1, len(runs[0].cases))))[0]
        sd = f" ± {_plain(float(scores.std(ddof=1)))}" if len(runs) > 1 else ""
        _, *others = table(comparisons[k - 1 : k])[1][0] if k else ("", "", "reference", "", "", "")
        rows.append([name, len(runs), f"{_plain(float(scores.mean()))}{sd}", others[1], others[2], others[4]])
    return header, rows


def explanation(comparisons: Sequence[Comparison]) -> str:
    """Return in one sentence how the intervals were made."""
    number, unit = comparisons[0].units
    return (
        f"Paired differences on the same {number} {unit}; intervals by bootstrap over {unit} and over the seeds of "
        "both sides, p-values corrected for the number of comparisons by Holm's method."
    )


def sentence(one: Comparison) -> str:
    """Return what may be concluded from a comparison: a difference only if its interval excludes 0, also after Holm."""
    title, difference = METRICS[one.metric], one.difference
    found = f"{_signed(difference.value)}, 95 % interval {_signed(difference.low)} to {_signed(difference.high)}"
    if not one.sampled:
        single = [name for name, seeds in zip((one.name, one.reference), one.seeds, strict=True) if seeds == 1]
        what = f"one seed of {' and of '.join(single)} the seeds" if single else f"one of the {one.units[1]} they"
        return (
            f"{one.name} and {one.reference}: {title} {found}, but with {what} were not sampled: no claim about the "
            "designs follows."
        )
    corrected = f"p = {one.holm:.4f} after Holm's correction"
    if one.shown:
        better = (difference.value > 0) != (one.metric in LOWER_IS_BETTER)
        return f"{one.name} is {'better' if better else 'worse'} than {one.reference}: {title} {found}, {corrected}."
    why = (
        "the interval includes 0" if difference.low <= 0 <= difference.high else "not after correction for their number"
    )
    return (
        f"No difference between {one.name} and {one.reference} is shown ({why}): {title} {found}, {corrected}; "
        "anything within the interval remains possible."
    )


def _signed(value: float) -> str:
    return f"{value:+.4f}" if abs(value) < 10 else f"{value:+.2f}"


def _plain(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"

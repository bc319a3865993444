"""Scores of the cases of a split, or of all folds, from which tables of their spread and of subgroups are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from mlla_seg.data.formats.picture import Array
from mlla_seg.evaluation.spread import Spread, spreads

DISTANCES = ("hd95", "assd", "hd95_area", "assd_area")
"""Scores without an upper bound."""

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95 {unit}",
    "assd": "ASSD {unit}",
    "nsd": "NSD {tolerance:g} {unit}",
    "hd95_area": "HD95 by area, {unit}",
    "assd_area": "ASSD by area, {unit}",
    "nsd_area": "NSD by area, {tolerance:g} {unit}",
    "precision": "precision",
    "recall": "recall",
}
"""Column headings of scores."""


@dataclass(frozen=True)
class CaseScores:
    """Scores of the foreground classes by case.

    Args:
        cases: N case names.
        patients: The patient of each case.
        names: K names of foreground classes or regions.
        values: Scores ``(N, K)`` by name, NaN where a case has none.
        unit: Unit of distances: ``mm`` or ``voxel``.
        tolerance: Tolerance of NSD, in that unit.
        kind: What the names are: ``class`` or ``region``.
        facts: What a table says about each case, with the same columns for all.
    """

    cases: Sequence[str]
    patients: Sequence[str]
    names: Sequence[str]
    values: Mapping[str, Array]
    unit: str = "voxel"
    tolerance: float = 2.0
    kind: str = "class"
    facts: Sequence[Mapping[str, str]] = ()

    @cached_property
    def spreads(self) -> dict[str, dict[str, Spread]]:
        """The spread over cases of each score, by class; ``mean`` is that of the mean over them."""
        found = spreads(self.values, self.patients, unbounded=DISTANCES)
        return {score: dict(zip([*self.names, "mean"], columns, strict=True)) for score, columns in found.items()}

    def subset(self, chosen: Sequence[int]) -> CaseScores:
        """Return the scores of some of the cases, by their indices."""
        return replace(
            self,
            cases=[self.cases[i] for i in chosen],
            patients=[self.patients[i] for i in chosen],
            values={score: values[list(chosen)] for score, values in self.values.items()},
            facts=[self.facts[i] for i in chosen] if self.facts else (),
        )

    def title(self, score: str) -> str:
        """Return the column heading of a score."""
        return TITLES[score].format(unit=self.unit, tolerance=self.tolerance)

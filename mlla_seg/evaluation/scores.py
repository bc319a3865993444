"""Scores of a split: per case and class, means over cases, and pooled over all voxels.

All scores treat missing structures alike. If a class is absent from both truth and prediction, the case is left out of
the mean and counted as absent. If it is in only one of them, every overlap score is 0, HD95 and ASSD are the diagonal
of the image, NSD is 0, and the case is counted as missed or hallucinated. So missing a structure never improves a mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mlla_seg.evaluation import surface_distance, transunet_protocol
from mlla_seg.evaluation.calibration import calibration_error
from mlla_seg.evaluation.case_scores import CaseScores
from mlla_seg.evaluation.overlap import (
    OVERLAP_SCORES,
    counts_of,
    dice_score,
    iou_score,
    mean_scores,
    precision_score,
    recall_score,
)
from mlla_seg.evaluation.regions import region_counts

STATUSES = ("found", "missed", "hallucinated", "absent")
"""Status of a class in a case: in both truth and prediction, only in the truth, only in the prediction, in neither."""

PUBLISHED = tuple(f"transunet_{measure}" for measure in transunet_protocol.MEASURES)
"""Names of the scores of the TransUNet protocol."""

PROTOCOLS = {
    "native": "Labels in the image's own grid; a class absent from truth and prediction of a case is left out of its "
    "mean, one in only one of them scores 0 and the diagonal of the image.",
    "transunet": "As published for Synapse and ACDC, to compare with papers and nothing else: slices resized to the "
    "network's size by a cubic spline and labels back by the nearest pixel, medpy's Dice and HD95 in voxels; a class "
    "missing from the prediction scores 0 and 0 even where it is absent, one that only the prediction has 1 and 0.",
}
"""Description of each protocol; ``folds`` requires it to be the same in all summaries."""

CALIBRATION = ("ece", "ece_predicted")
"""Names of the calibration errors of a class in a case: over all pixels, and over those predicted as the class."""

POOLED_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "iou": iou_score,
    "f1": dice_score,
    "precision": precision_score,
    "recall": recall_score,
}
"""Scores pooled over all voxels; F1 is the Dice of the pooled counts."""


@dataclass(frozen=True)
class Evaluation:
    """All measurements on the cases of a split.

    Args:
        cases: N case names.
        classes: K names of what is scored: classes or, with ``regions``, regions.
        background: Index of the class that is left out of means, if any.
        confusion: ``(N, K, K)`` voxel counts, a row per true class, a column per predicted class.
        surfaces: ``(N, K, 3)`` HD95, ASSD and NSD; None if they were not measured.
        surface_areas: The same weighted by surface area; None if they were not measured.
        boundaries: ``(N, K, 2)`` pixels in the intersection and union of the boundaries of prediction and truth; None
            for volumes.
        unit: Unit of distances: ``mm``, or ``voxel`` if the spacing of any case is unknown.
        tolerance: Tolerance of NSD, in that unit.
        voxel_ml: Voxel volume of each case in millilitres, NaN if it is unknown.
        calibration: ``(N, K, 2, bins, 3)`` counts of probabilities, see :mod:`mlla_seg.evaluation.calibration`; None if
            they were not collected.
        published: ``(N, K, 2)`` Dice and HD95 of the TransUNet protocol, if requested.
        patients: The patient of each case; by default every case is a patient of its own.
        regions: Indices of the classes of each region, if regions are scored.
        labels: Names of the classes of the confusion matrices; by default ``classes``.
        facts: What a table says about each case, such as scanner or age, with the same columns for all.
    """

    cases: Sequence[str]
    classes: Sequence[str]
    background: int | None
    confusion: Tensor
    surfaces: Tensor | None = None
    surface_areas: Tensor | None = None
    boundaries: Tensor | None = None
    calibration: Tensor | None = None
    unit: str = "voxel"
    tolerance: float = 2.0
    voxel_ml: Sequence[float] = ()
    published: Tensor | None = None
    patients: Sequence[str] = ()
    regions: Sequence[Sequence[int]] = ()
    labels: Sequence[str] = ()
    facts: Sequence[Mapping[str, str]] = ()

    def __post_init__(self) -> None:
        if not self.labels:
            object.__setattr__(self, "labels", self.classes)

    @property
    def kind(self) -> str:
        """Heading of the names of what is scored."""
        return "region" if self.regions else "class"

    @property
    def foreground(self) -> list[int]:
        """Indices of the classes that are included in means."""
        return [k for k in range(len(self.classes)) if k != self.background]

    @property
    def counts(self) -> Tensor:
        """Voxel counts ``(N, K, 3)``: true positives, false positives, false negatives."""
        return region_counts(self.confusion, self.regions) if self.regions else counts_of(self.confusion)

    def scores(self) -> dict[str, Tensor]:
        """Return all scores by name, ``(N, K)`` float64; NaN if a class is absent from truth and prediction."""
        scores = {name: score(self.counts) for name, score in OVERLAP_SCORES.items()}
        if self.surfaces is not None:
            scores |= dict(zip(surface_distance.MEASURES, self.surfaces.double().unbind(-1), strict=True))
        if self.surface_areas is not None:
            scores |= dict(zip(surface_distance.BY_AREA, self.surface_areas.double().unbind(-1), strict=True))
        return scores

    def statuses(self) -> Tensor:
        """Return indices into ``STATUSES``, ``(N, K)``."""
        tp, fp, fn = self.counts.unbind(-1)
        predicted, present = tp + fp > 0, tp + fn > 0
        return torch.where(present, torch.where(predicted, 0, 1), torch.where(predicted, 2, 3))

    def case_means(self) -> Tensor:
        """Return the mean Dice of each case over its foreground classes, ``(N,)``; NaN if it has none."""
        return self.scores()["dice"][:, self.foreground].nanmean(dim=1)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per case and class, for ``per_case.csv``."""
        counts, statuses = self.counts.tolist(), self.statuses().tolist()
        scores = {name: values.tolist() for name, values in self.scores().items()}
        published = None if self.published is None else self.published.tolist()
        errors = None if self.calibration is None else calibration_error(self.calibration).tolist()
        rows = []
        for i, (case, patient) in enumerate(zip(self.cases, self.patients or self.cases, strict=True)):
            for k, name in enumerate(self.classes):
                tp, fp, fn = counts[i][k]
                row: dict[str, Any] = {"case": case, "patient": patient, "class": name}
                row |= {"status": STATUSES[statuses[i][k]]}
                row |= {score: values[i][k] for score, values in scores.items()}
                row |= {"unit": self.unit} if self.surfaces is not None else {}
                row |= dict(zip(CALIBRATION, errors[i][k], strict=True)) if errors is not None else {}
                if published is not None:
                    row |= dict(zip(PUBLISHED, published[i][k], strict=True))
                volume = self.voxel_ml[i] if self.voxel_ml else math.nan
                row |= {"truth_ml": (tp + fn) * volume, "prediction_ml": (tp + fp) * volume}
                row |= {"tp": tp, "fp": fp, "fn": fn}
                facts = self.facts[i] if self.facts else {}
                rows.append(row | {f"{key} (table)" if key in row else key: value for key, value in facts.items()})
        return rows

    def means(self) -> dict[str, float]:
        """Return means over cases per class, such as ``dice_liver``, and over foreground classes, such as ``dice``."""
        means: dict[str, float] = {}
        scores = self.scores()
        if self.published is not None:
            scores |= dict(zip(PUBLISHED, self.published.double().unbind(-1), strict=True))
        for score, values in scores.items():
            per_class, mean = mean_scores(values, self.background)
            means[score] = float(mean)
            means |= dict(zip((f"{score}_{name}" for name in self.classes), per_class.tolist(), strict=True))
        return means

    @cached_property
    def by_case(self) -> CaseScores:
        """The scores of the foreground classes, for tables of their spread."""
        return CaseScores(
            self.cases,
            self.patients or self.cases,
            [self.classes[k] for k in self.foreground],
            {score: values[:, self.foreground].numpy() for score, values in self.scores().items()},
            self.unit,
            self.tolerance,
            self.kind,
            self.facts,
        )

    def pooled_scores(self) -> dict[str, Tensor]:
        """Return pooled scores by name, ``(K,)``; boundary IoU only for single-slice images."""
        counts = self.counts.sum(dim=0)
        scores = {name: score(counts) for name, score in POOLED_SCORES.items()}
        if self.boundaries is not None:
            both, either = self.boundaries.sum(dim=0).double().unbind(-1)
            scores["boundary_iou"] = both / either
        return scores

    def pooled(self) -> dict[str, float]:
        """Return scores of the confusion matrix of the whole split, as is usual in remote sensing.

        For each of :meth:`pooled_scores`: the score per class, such as ``iou_water``, its mean without background,
        ``iou``, and with it, ``iou_with_all``. Also overall ``accuracy`` and Cohen's ``kappa`` over all classes,
        which of regions are those that are written.
        """
        pooled = {}
        for name, values in self.pooled_scores().items():
            pooled[name] = float(values[self.foreground].nanmean())
            pooled[f"{name}_with_all"] = float(values.nanmean())
            pooled |= {f"{name}_{label}": float(value) for label, value in zip(self.classes, values, strict=True)}
        confusion = self.confusion.sum(dim=0).double()
        total = confusion.sum()
        agreed, by_chance = confusion.trace() / total, (confusion.sum(0) * confusion.sum(1)).sum() / total**2
        return pooled | {"accuracy": float(agreed), "kappa": float((agreed - by_chance) / (1 - by_chance))}

    def pooled_table(self) -> tuple[list[str], list[list[Any]]]:
        """Return header and rows of :meth:`pooled`: a row per class, and means without and with the background."""
        scores, pooled = self.pooled_scores(), self.pooled()
        rows: list[list[Any]] = [
            [label, *(float(values[k]) for values in scores.values())] for k, label in enumerate(self.classes)
        ]
        if self.background is not None:
            rows.append([f"mean without {self.classes[self.background]}", *(pooled[name] for name in scores)])
        rows.append(["mean of all", *(pooled[f"{name}_with_all"] for name in scores)])
        return [self.kind, *(POOLED_TITLES[name] for name in scores)], rows

    def numbers_of_cases(self) -> dict[str, dict[str, int]]:
        """Return the number of cases in which each class is found, missed, hallucinated and absent."""
        statuses = self.statuses()
        return {
            self.classes[k]: {status: int((statuses[:, k] == s).sum()) for s, status in enumerate(STATUSES)}
            for k in self.foreground
        }

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Return header and rows for display: a row per foreground class, and their mean."""
        means, numbers = self.means(), self.numbers_of_cases()
        columns = {name: self.by_case.title(name) for name in self.scores()}
        header = [self.kind, *columns.values(), *STATUSES]
        rows = [
            [name, *(means[f"{column}_{name}"] for column in columns), *numbers[name].values()]
            for name in (self.classes[k] for k in self.foreground)
        ]
        totals = [sum(number[status] for number in numbers.values()) for status in STATUSES]
        return header, [*rows, ["mean", *(means[column] for column in columns), *totals]]

    def comparison(self) -> tuple[list[str], list[list[Any]]]:
        """Return header and rows of both protocols side by side; requires ``published``."""
        means = self.means()
        header = [self.kind, "Dice", f"HD95 {self.unit}", "Dice transunet", "HD95 transunet (voxel)"]
        columns = ("dice", "hd95", *PUBLISHED)
        rows: list[list[Any]] = [
            [self.classes[k], *(means[f"{column}_{self.classes[k]}"] for column in columns)] for k in self.foreground
        ]
        return header, [*rows, ["mean", *(means[column] for column in columns)]]


POOLED_TITLES = {
    "iou": "IoU",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "boundary_iou": "boundary IoU",
}
"""Column headings of pooled scores."""

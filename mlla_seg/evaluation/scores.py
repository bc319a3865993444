"""What was measured on a split: a row per case and class, means, and what they mean.

The policy for structures that are not there, the same for every score: absent from truth and prediction, a case is left
out of the mean and counted as absent; in only one of them, every overlap score is 0, both distances are the diagonal of
the image, NSD is 0, and the case is counted as missed or hallucinated. So a network that misses more scores worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlla_seg.evaluation import surface_distance, transunet_protocol
from mlla_seg.evaluation.overlap import (
    OVERLAP_SCORES,
    counts_of,
    dice_score,
    iou_score,
    mean_scores,
    precision_score,
    recall_score,
)

STATUSES = ("found", "missed", "hallucinated", "absent")
"""Of a class in a case: in truth and prediction, in one of them, in neither."""

PUBLISHED = tuple(f"transunet_{measure}" for measure in transunet_protocol.MEASURES)
"""Names of the scores by the evaluation of TransUNet."""

PROTOCOLS = {
    "native": "Labels in the image's own grid; a class absent from truth and prediction of a case is left out of its "
    "mean, one in only one of them scores 0 and the diagonal of the image.",
    "transunet": "As published for Synapse and ACDC, to compare with papers and nothing else: slices resized to the "
    "network's size by a cubic spline and labels back by the nearest pixel, medpy's Dice and HD95 in voxels; a class "
    "missing from the prediction scores 0 and 0 even where it is absent, one that only the prediction has 1 and 0.",
}
"""Each way of evaluating in one sentence."""

POOLED_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "iou": iou_score,
    "f1": dice_score,
    "precision": precision_score,
    "recall": recall_score,
}
"""What is said of all voxels together; F1 is the Dice of their counts."""


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on the cases of a split.

    Args:
        cases: N names.
        classes: K names.
        background: Index of the class that is left out of means, if any.
        confusion: ``(N, K, K)`` voxels, a row per true class, a column per predicted one.
        surfaces: ``(N, K, 3)`` HD95, ASSD and NSD, or none where they were not measured.
        boundaries: ``(N, K, 2)`` pixels in both and in either boundary of prediction and truth, or none where cases are
            volumes.
        unit: Of distances: ``mm``, or ``voxel`` where a case does not say its spacing.
        tolerance: Of NSD, in that unit.
        voxel_ml: Volume of a voxel of each case in millilitres, NaN where it is not known.
        published: ``(N, K, 2)`` Dice and HD95 by the evaluation of TransUNet, if it was asked for.
    """

    cases: Sequence[str]
    classes: Sequence[str]
    background: int | None
    confusion: Tensor
    surfaces: Tensor | None = None
    boundaries: Tensor | None = None
    unit: str = "voxel"
    tolerance: float = 2.0
    voxel_ml: Sequence[float] = ()
    published: Tensor | None = None

    @property
    def foreground(self) -> list[int]:
        """Indices of the classes that count in means."""
        return [k for k in range(len(self.classes)) if k != self.background]

    @property
    def counts(self) -> Tensor:
        """``(N, K, 3)`` voxels: true positives, false positives, false negatives."""
        return counts_of(self.confusion)

    def scores(self) -> dict[str, Tensor]:
        """Every score by name, ``(N, K)`` float64, NaN where a class is absent from truth and prediction."""
        scores = {name: score(self.counts) for name, score in OVERLAP_SCORES.items()}
        if self.surfaces is not None:
            scores |= dict(zip(surface_distance.MEASURES, self.surfaces.double().unbind(-1), strict=True))
        return scores

    def statuses(self) -> Tensor:
        """Index into ``STATUSES`` of every class in every case, ``(N, K)``."""
        tp, fp, fn = self.counts.unbind(-1)
        predicted, present = tp + fp > 0, tp + fn > 0
        return torch.where(present, torch.where(predicted, 0, 1), torch.where(predicted, 2, 3))

    def case_means(self) -> Tensor:
        """Mean Dice of every case over its classes but the background, ``(N,)``; NaN where it has none."""
        return self.scores()["dice"][:, self.foreground].nanmean(dim=1)

    def rows(self) -> list[dict[str, Any]]:
        """One row per case and class, for ``per_case.csv``."""
        counts, statuses = self.counts.tolist(), self.statuses().tolist()
        scores = {name: values.tolist() for name, values in self.scores().items()}
        published = None if self.published is None else self.published.tolist()
        rows = []
        for i, case in enumerate(self.cases):
            for k, name in enumerate(self.classes):
                tp, fp, fn = counts[i][k]
                row: dict[str, Any] = {"case": case, "class": name, "status": STATUSES[statuses[i][k]]}
                row |= {score: values[i][k] for score, values in scores.items()}
                row |= {"unit": self.unit} if self.surfaces is not None else {}
                if published is not None:
                    row |= dict(zip(PUBLISHED, published[i][k], strict=True))
                volume = self.voxel_ml[i] if self.voxel_ml else math.nan
                row |= {"truth_ml": (tp + fn) * volume, "prediction_ml": (tp + fp) * volume}
                rows.append(row | {"tp": tp, "fp": fp, "fn": fn})
        return rows

    def means(self) -> dict[str, float]:
        """Means over cases by score and class, ``dice_liver``, and over classes, ``dice``; the means of a table."""
        means: dict[str, float] = {}
        scores = self.scores()
        if self.published is not None:
            scores |= dict(zip(PUBLISHED, self.published.double().unbind(-1), strict=True))
        for score, values in scores.items():
            per_class, mean = mean_scores(values, self.background)
            means[score] = float(mean)
            means |= dict(zip((f"{score}_{name}" for name in self.classes), per_class.tolist(), strict=True))
        return means

    def pooled_scores(self) -> dict[str, Tensor]:
        """Scores by name and class, ``(K,)``, of all voxels of the split together; boundary IoU of maps alone."""
        counts = counts_of(self.confusion.sum(dim=0))
        scores = {name: score(counts) for name, score in POOLED_SCORES.items()}
        if self.boundaries is not None:
            both, either = self.boundaries.sum(dim=0).double().unbind(-1)
            scores["boundary_iou"] = both / either
        return scores

    def pooled(self) -> dict[str, float]:
        """Scores of all voxels of the split together, from one confusion matrix, as is usual for maps.

        Each of :meth:`pooled_scores` by class, as ``iou_water``, its mean without the background, ``iou``, and with it,
        ``iou_with_all``; overall ``accuracy``, and Cohen's ``kappa`` over all classes.
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
        """Header and rows of :meth:`pooled`: a row per class, their mean without the background, and with it."""
        scores, pooled = self.pooled_scores(), self.pooled()
        rows: list[list[Any]] = [
            [label, *(float(values[k]) for values in scores.values())] for k, label in enumerate(self.classes)
        ]
        if self.background is not None:
            rows.append([f"mean without {self.classes[self.background]}", *(pooled[name] for name in scores)])
        rows.append(["mean of all", *(pooled[f"{name}_with_all"] for name in scores)])
        return ["class", *(POOLED_TITLES[name] for name in scores)], rows

    def numbers_of_cases(self) -> dict[str, dict[str, int]]:
        """How many cases each class is found, missed, hallucinated and absent in."""
        statuses = self.statuses()
        return {
            self.classes[k]: {status: int((statuses[:, k] == s).sum()) for s, status in enumerate(STATUSES)}
            for k in self.foreground
        }

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows for people: a row per class but the background, and their mean."""
        means, numbers = self.means(), self.numbers_of_cases()
        columns = {name: TITLES[name].format(unit=self.unit, tolerance=self.tolerance) for name in self.scores()}
        header = ["class", *columns.values(), *STATUSES]
        rows = [
            [name, *(means[f"{column}_{name}"] for column in columns), *numbers[name].values()]
            for name in (self.classes[k] for k in self.foreground)
        ]
        totals = [sum(number[status] for number in numbers.values()) for status in STATUSES]
        return header, [*rows, ["mean", *(means[column] for column in columns), *totals]]

    def comparison(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows of both protocols side by side; asks for ``published``."""
        means = self.means()
        header = ["class", "Dice", f"HD95 {self.unit}", "Dice transunet", "HD95 transunet (voxel)"]
        columns = ("dice", "hd95", *PUBLISHED)
        rows: list[list[Any]] = [
            [self.classes[k], *(means[f"{column}_{self.classes[k]}"] for column in columns)] for k in self.foreground
        ]
        return header, [*rows, ["mean", *(means[column] for column in columns)]]


TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95 {unit}",
    "assd": "ASSD {unit}",
    "nsd": "NSD {tolerance:g} {unit}",
    "precision": "precision",
    "recall": "recall",
}
"""Scores as headings."""

POOLED_TITLES = {
    "iou": "IoU",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "boundary_iou": "boundary IoU",
}
"""Pooled scores as headings."""

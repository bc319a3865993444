"""Scores of runs as ``validate`` and ``test`` wrote them, ready to be computed anew on resampled cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError, lookup, program
from mlla_seg.evaluation.surface_distance import BY_AREA, MEASURES
from mlla_seg.evaluation.tables import read_csv
from mlla_seg.study.bootstrap import Score
from mlla_seg.texts import read_json

METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "hd95": "HD95",
    "assd": "ASSD",
    "nsd": "NSD",
    "hd95_area": "HD95 by area",
    "assd_area": "ASSD by area",
    "nsd_area": "NSD by area",
    "transunet_dice": "Dice of the TransUNet protocol",
    "transunet_hd95": "HD95 of the TransUNet protocol",
    "pooled_iou": "pooled IoU",
    "pooled_f1": "pooled F1",
    "pooled_precision": "pooled precision",
    "pooled_recall": "pooled recall",
}
"""Titles of the metrics: means over cases, or of the voxel counts of all cases together (``pooled_``)."""
LOWER_IS_BETTER = ("hd95", "assd", "hd95_area", "assd_area", "transunet_hd95")

SAME_IN_ALL = ("card", "split", "background", "masks", "fold", "protocols", "test-time augmentation", "transunet at")
"""Keys of ``summary.json`` on which compared runs must agree."""
SAME_DISTANCES = ("unit", "nsd_tolerance")
"""Further keys for metrics of distances."""


@dataclass(frozen=True)
class Scored:
    """The scores of one run.

    Args:
        folder: Where they were read.
        summary: Content of ``summary.json``.
        cases: N names.
        patients: The patient of each case.
        classes: K names of the foreground classes.
        counts: ``(N, K, 3)`` voxels: true positives, false positives, false negatives.
        values: ``(N, K)`` the metric; NaN where a case has none. None for pooled metrics.
    """

    folder: Path
    summary: dict[str, Any]
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    classes: tuple[str, ...]
    counts: Array
    values: Array | None

    @property
    def single_images(self) -> bool:
        """Whether the cases are images such as aerial tiles, and no volumes."""
        return _of_single_images(self.summary)

    def score(self, metric: str, weights: Array) -> Array:
        """Return the run's score ``(R,)`` on cases taken with weights ``(R, N)``: the mean over foreground classes."""
        if self.values is None:
            counts = weights @ self.counts.reshape(len(self.cases), -1)
            per_class = pooled_score(metric, counts.reshape(len(weights), *self.counts.shape[1:]))
        else:
            known = ~np.isnan(self.values)
            per_class = _ratio(weights @ np.where(known, self.values, 0), weights @ known)
        known = ~np.isnan(per_class)
        return _ratio(np.where(known, per_class, 0).sum(axis=1), known.sum(axis=1))


def pooled_score(metric: str, counts: Array) -> Array:
    """Return a pooled metric of voxel counts ``(..., 3)`` as :mod:`mlla_seg.evaluation.overlap` defines them."""
    tp, fp, fn = np.moveaxis(counts, -1, 0)
    if metric == "pooled_iou":
        return _ratio(tp, tp + fp + fn)
    if metric == "pooled_f1":
        return _ratio(2 * tp, 2 * tp + fp + fn)
    own, other = (fp, fn) if metric == "pooled_precision" else (fn, fp)
    return np.where((tp + own == 0) & (other > 0), 0.0, _ratio(tp, tp + own))


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full(np.shape(above), math.nan), where=below > 0)


def usual_metric(folder: Path) -> str:
    """Return the metric of a scored run's data: pooled IoU of single images, the mean Dice of volumes."""
    return "pooled_iou" if _of_single_images(read_summary(folder)) else "dice"


def _of_single_images(summary: Mapping[str, Any]) -> bool:
    return "boundary_iou" in summary["pooled"]  # which volumes have not


def read_scored(folder: Path, metric: str) -> Scored:
    """Read ``per_case.csv`` and ``summary.json`` of a scored run.

    Raises:
        InputError: A file is missing or broken, or the metric was not measured.
    """
    lookup(METRICS, metric, "metric")
    summary = read_summary(folder)
    table, column = folder / "per_case.csv", metric
    rows = read_csv(table)
    pooled = metric.startswith("pooled_")
    if not rows or (not pooled and column not in rows[0]):
        how = "--surface_area true" if metric in BY_AREA else "--distances true"
        how = "--evaluation transunet" if metric.startswith("transunet") else how
        raise InputError(f"{table} has no {metric}: score the run again with {how}, or choose another metric.")
    kept = [row for row in rows if row["class"] != summary["background"]]
    classes = tuple(dict.fromkeys(row["class"] for row in kept))
    cases = {row["case"]: row.get("patient") or row["case"] for row in kept}
    shape = len(cases), len(classes)
    counts = np.array([[float(row[key]) for key in ("tp", "fp", "fn")] for row in kept]).reshape(*shape, 3)
    values = None if pooled else np.array([float(row[column] or "nan") for row in kept]).reshape(shape)
    return Scored(folder, summary, tuple(cases), tuple(cases.values()), classes, counts, values)


def read_summary(folder: Path) -> dict[str, Any]:
    """Read ``summary.json`` of a scored run.

    Raises:
        InputError: It cannot be read.
    """
    path = folder / "summary.json"
    try:
        return dict(read_json(path))
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). Score the run again.") from error


def find_scored(folder: Path) -> list[Path]:
    """Return the folders of scores of a variant: the folder itself, or those of the runs below it, by name.

    Raises:
        InputError: There is none, or two are of the same training.
    """
    for places in ([folder, folder / "scored"], sorted(folder.glob("*/")), sorted(folder.glob("*/scored/"))):
        found = [place for place in places if (place / "per_case.csv").is_file() and (place / "summary.json").is_file()]
        if found:
            break
    else:
        raise InputError(
            f"{folder}: no scored run is here, which has a per_case.csv and a summary.json. Score a checkpoint with: "
            f"{program()} test --config ... --ckpt_path ..."
        )
    trainings: dict[Any, Path] = {}
    for place in found:
        summary = read_summary(place)
        checkpoint = summary.get("checkpoint") or str(place)
        own = summary.get("checkpoint id") or checkpoint  # version 0.1 has the whole path
        if own in trainings:
            raise InputError(
                f"{trainings[own]} and {place} are scores of the same checkpoint {checkpoint}, which would "
                "count as two seeds. Name one of them."
            )
        trainings[own] = place
    return found


def on_common_cases(designs: Mapping[str, Sequence[Scored]]) -> dict[str, list[Scored]]:
    """Return the runs with only those cases that all of them have, in the order of the first.

    Raises:
        InputError: There is none.
    """
    everything = [run for runs in designs.values() for run in runs]
    known = set(everything[0].cases).intersection(*(run.cases for run in everything))
    common = [name for name in everything[0].cases if name in known]
    if not common:
        folders = " and ".join(str(run.folder) for run in everything)
        raise InputError(f"{folders} have no case in common.")

    def only(run: Scored) -> Scored:
        place = {name: i for i, name in enumerate(run.cases)}
        at = [place[name] for name in common]
        values = None if run.values is None else run.values[at]
        patients = tuple(run.patients[i] for i in at)
        return replace(run, cases=tuple(common), patients=patients, counts=run.counts[at], values=values)

    return {name: [only(run) for run in runs] for name, runs in designs.items()}


def require_alike(runs: Sequence[Scored], metric: str) -> None:
    """Refuse runs that were scored on other cases or in another way than the first.

    Raises:
        InputError: Names both folders and the difference.
    """
    first = runs[0]
    keys = SAME_IN_ALL + (SAME_DISTANCES if metric in (*MEASURES, *BY_AREA) else ())
    for other in runs[1:]:
        both = f"{first.folder} and {other.folder} cannot be compared"
        for key in keys:
            if (one := first.summary.get(key)) != (two := other.summary.get(key)):
                if key == "protocols":
                    one, two = (", ".join(entry or ()) for entry in (one, two))
                raise InputError(f"{both}: {key} is {one} in the first and {two} in the second. Score both alike.")
        for what, ones, twos in (("class", first.classes, other.classes), ("case", first.cases, other.cases)):
            if ones != twos:
                raise InputError(f"{both}: {_difference(what, ones, twos)}. Score both on the same data.")
        truth, again = (run.counts[..., 0] + run.counts[..., 2] for run in (first, other))
        if (truth != again).any():
            case = first.cases[int((truth != again).any(axis=1).argmax())]
            raise InputError(f"{both}: the masks of {case} have other voxels. Score both with the same data.")


def _difference(what: str, ones: Sequence[str], twos: Sequence[str]) -> str:
    for mine, others, which in ((ones, twos, "first"), (twos, ones, "second")):
        if alone := [name for name in mine if name not in others]:
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            return f"{what} {alone[0]}{more} is only in the {which}"
    return f"the order of their {what} names differs"


def scores_of(runs: Sequence[Scored], metric: str) -> Score:
    """Return the function that scores several runs on weighted cases; see :mod:`mlla_seg.study.bootstrap`."""
    return lambda weights: np.stack([run.score(metric, weights) for run in runs], axis=1)

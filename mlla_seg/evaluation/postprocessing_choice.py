"""Choice of post-processing on the validation split: what raises the mean Dice is kept, as nnU-Net does.

First all but the largest component of the foreground as a whole are removed. Then for each class components are removed
(all but the largest, or the small ones) and holes are filled. Each step is tried on masks that have gone through those
before it. It is kept if the mean Dice over cases and foreground classes, or regions, rises; without a difference it is
not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.postprocessing import Step, applied
from mlla_seg.evaluation.overlap import case_confusion, counts_of, dice_score, mean_scores
from mlla_seg.evaluation.regions import region_counts
from mlla_seg.evaluation.spread import Gain, paired_difference
from mlla_seg.progress import progress

SIZES = (10.0, 100.0, 1000.0)
"""Smallest sizes that are tried, in mm3 if the spacing of all cases is known, else in voxels."""
LEAST = 1e-6
"""Smallest gain of the mean Dice; less is rounding."""


class PackedMask:
    """A mask in memory, compressed to about a hundredth."""

    def __init__(self, labels: Array) -> None:
        self.shape = labels.shape
        self._content = zlib.compress(np.ascontiguousarray(labels, np.uint8).tobytes(), 1)

    def labels(self) -> Array:
        """Return the labels, uint8."""
        return np.frombuffer(zlib.decompress(self._content), np.uint8).reshape(self.shape)


@dataclass
class Candidate:
    """A validation case: its name, predicted and true class indices ``(S, H, W)``, and spacing, if known."""

    name: str
    prediction: PackedMask
    truth: PackedMask
    spacing_mm: Sequence[float] | None


@dataclass(frozen=True)
class ChosenSteps:
    """The steps that were chosen, and their gains.

    Args:
        steps: Steps in their order; none if nothing helps.
        names: Names of what is scored, and last their mean.
        gains: Difference of the Dice of each, with its interval over patients.
    """

    steps: tuple[Step, ...]
    names: Sequence[str]
    gains: Sequence[Gain]

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Return header and rows for display."""
        rows: list[list[Any]] = [
            [name, gain.before, gain.after, f"{gain.value:+.4f}", gain.interval_in_words(), gain.better, gain.worse]
            for name, gain in zip(self.names, self.gains, strict=True)
        ]
        return ["Dice", "before", "after", "gain", "95 % interval", "cases better", "worse"], rows


def choose(cases: Sequence[Candidate], patients: Sequence[str], spec: DataSpec) -> ChosenSteps:
    """Choose the steps that raise the mean Dice of validation cases.

    Args:
        cases: Validation cases; their predictions go through the chosen steps.
        patients: The patient of each case.
        spec: Description of the data, with a background class.
    """
    foreground = [k for k in range(len(spec.classes)) if k != spec.background]
    groups = [tuple(foreground)] if len(foreground) > 1 else []
    groups += [(k,) for k in foreground]
    unit = "mm3" if all(case.spacing_mm is not None for case in cases) else "voxels"
    steps: list[Step] = []
    before = scores = _dice(cases, spec, lambda case: case.prediction.labels())
    with progress(2 * len(groups), "Post-processing", "region", leave=False) as bar:
        for classes in groups:
            removals = [Step("keep_largest", classes)]
            holes = []
            if len(classes) == 1:
                removals += [Step("minimum_size", classes, size, unit) for size in SIZES]
                holes = [Step("fill_holes", classes)]
            for options in (removals, holes):
                tried = [(step, _dice(cases, spec, partial(_after, step=step, spec=spec))) for step in options]
                tried = [(step, dice) for step, dice in tried if _mean(dice, spec) > _mean(scores, spec) + LEAST]
                if tried:
                    step, scores = max(tried, key=lambda one: _mean(one[1], spec))
                    steps.append(step)
                    for case in cases:
                        case.prediction = PackedMask(_after(case, step, spec))
                bar.update()
    scored = _scored(spec)
    names = [spec.output_names[k] for k in scored]
    gains = paired_difference(before[:, scored].numpy(), scores[:, scored].numpy(), patients)
    return ChosenSteps(tuple(steps), [*names, "mean"], gains)


def _after(case: Candidate, step: Step, spec: DataSpec) -> Array:
    return applied(case.prediction.labels(), [step], spec.background, case.spacing_mm)


def _dice(cases: Sequence[Candidate], spec: DataSpec, labels: Callable[[Candidate], Array]) -> torch.Tensor:
    """Return the Dice ``(N, K)`` of all cases, of classes or regions."""
    tables = []
    for case in cases:
        prediction, truth = (torch.from_numpy(np.array(mask)) for mask in (labels(case), case.truth.labels()))
        tables.append(case_confusion(prediction, truth, len(spec.classes)))
    confusion = torch.stack(tables)
    regions = [region.classes for region in spec.regions]
    return dice_score(region_counts(confusion, regions) if regions else counts_of(confusion))


def _scored(spec: DataSpec) -> list[int]:
    """Return the indices of the scored outputs: all regions, or all classes but the background."""
    return [k for k in range(len(spec.output_names)) if spec.regions or k != spec.background]


def _mean(dice: torch.Tensor, spec: DataSpec) -> float:
    mean = float(mean_scores(dice, None if spec.regions else spec.background)[1])
    return mean if mean == mean else 0.0  # without any foreground

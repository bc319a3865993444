"""Options of scoring, and the scores of one case."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.store.case import StoredCase
from mlla_seg.errors import InputError, lookup
from mlla_seg.evaluation import calibration
from mlla_seg.evaluation.boundary_iou import WIDTH, boundary_counts
from mlla_seg.evaluation.overlap import CaseTable, case_confusion, seen_cases
from mlla_seg.evaluation.regions import measured
from mlla_seg.evaluation.scores import PROTOCOLS, Evaluation
from mlla_seg.evaluation.surface_distance import case_surface_scores
from mlla_seg.evaluation.transunet_protocol import SIZE

# A literal built from the registry, so that --help lists the choices.
ProtocolName: TypeAlias = Literal[tuple(PROTOCOLS)]  # type: ignore[valid-type]


@dataclass
class Scoring:
    """Options of ``validate`` and ``test``; they do not affect training and are not saved in checkpoints.

    Args:
        evaluation: ``native``, or ``transunet`` to add the evaluation protocol of papers on Synapse and ACDC.
        distances: Compute HD95, ASSD and NSD as well; slow, and of little use for aerial images.
        surface_area: Compute them weighted by surface area, too, as DeepMind's surface-distance does; takes 1.5 to 3
            times as long as the distances.
        nsd_tolerance: Tolerance of NSD in millimetres, or in voxels if the spacing is unknown.
        calibration: Compare the probabilities with how often they are right; on CPUs it takes a tenth of the time of
            ``mlla_tiny``.
        boundary_width: Width in pixels of the boundaries compared by boundary IoU (single-slice images only).
        tta: Test-time augmentation: average over flips along the axes of ``--data.mirror``.
        members: Further checkpoints of an ensemble; ``--ckpt_path a.ckpt b.ckpt`` is the short form.
        postprocessing: Apply the post-processing that is stored in the checkpoint, if any; never to rasters.
        choose_postprocessing: New .ckpt for a copy of the checkpoint with the post-processing that raises the mean Dice
            of the validation split; only for ``validate``.
    """

    evaluation: ProtocolName = "native"
    distances: bool = True
    surface_area: bool = False
    nsd_tolerance: float = 2.0
    calibration: bool = True
    boundary_width: int = WIDTH
    tta: bool = False
    members: list[str] = field(default_factory=list)
    postprocessing: bool = True
    choose_postprocessing: str | None = None

    def __post_init__(self) -> None:
        lookup(PROTOCOLS, self.evaluation, "evaluation")
        if self.evaluation == "transunet" and not self.distances:
            raise InputError("--evaluation transunet needs distances: remove --distances false.")
        if self.surface_area and not self.distances:
            raise InputError("--surface_area needs distances: remove --distances false.")
        if self.boundary_width < 1:
            raise InputError(f"--boundary_width must be 1 pixel or more, got {self.boundary_width}.")
        if self.nsd_tolerance < 0:
            raise InputError(f"--nsd_tolerance must be 0 or more, got {self.nsd_tolerance}.")


def published_size(spec: DataSpec) -> Sequence[int]:
    """Return height and width to which the TransUNet evaluation resizes slices."""
    return spec.resize if isinstance(spec.resize, tuple) else SIZE


def single_slices(cases: Sequence[StoredCase]) -> bool:
    """Return whether all cases are single images, which are scored by pooled IoU, rather than volumes."""
    return all(case.shape[0] == 1 for case in cases)


def empty_tables(scoring: Scoring, spec: DataSpec, cases: Sequence[StoredCase], training: bool) -> dict[str, CaseTable]:
    """Return a table per measure of a split; during training only that of the confusion matrices."""
    count, scored, classes = len(cases), len(spec.output_names), len(spec.classes)
    tables = {"confusion": CaseTable(count, classes, classes)}
    if training:
        return tables
    if scoring.distances:
        tables["surfaces"] = CaseTable(count, scored, 3, dtype=torch.float32)
    if scoring.surface_area:
        tables["surface_areas"] = CaseTable(count, scored, 3, dtype=torch.float32)
    if scoring.calibration:
        tables["calibration"] = CaseTable(count, scored, *calibration.SHAPE)
    if single_slices(cases):
        tables["boundaries"] = CaseTable(count, scored, 2)
    if scoring.evaluation == "transunet":
        tables["published"] = CaseTable(count, scored, 2, dtype=torch.float32)
    return tables


def case_scores(
    prediction: Tensor, mask: Tensor, spacing: Sequence[float], scoring: Scoring, spec: DataSpec, wanted: Container[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the wanted measures of one case by name; of classes, or of regions if the network segments these.

    Args:
        prediction: Class indices ``(S, H, W)``.
        mask: True class indices ``(S, H, W)``.
        spacing: Spacing of slices, rows and columns, in the unit of distances.
        scoring: Options.
        spec: Description of the data.
        wanted: Names of the measures.
    """
    yield "confusion", case_confusion(prediction, mask, len(spec.classes))
    if "boundaries" in wanted:
        yield "boundaries", measured(partial(boundary_counts, width=scoring.boundary_width), prediction, mask, spec)
    for name, by_area in (("surfaces", False), ("surface_areas", True)):
        if name in wanted:
            how: dict[str, Any] = {"tolerance": scoring.nsd_tolerance, "background": spec.background}
            measure = partial(case_surface_scores, spacing=spacing, by_area=by_area, **how)
            yield name, measured(measure, prediction, mask, spec)


def evaluated(
    tables: Mapping[str, Any], cases: Sequence[StoredCase], spec: DataSpec, scoring: Scoring, unit: str
) -> tuple[Evaluation, list[StoredCase]]:
    """Return the evaluation of the cases that were scored, and these cases.

    Args:
        tables: Values of the measures, one row for each of ``cases``.
        cases: The cases of the split.
        spec: Description of the data.
        scoring: What was scored.
        unit: Unit of distances.
    """
    seen = seen_cases(tables["confusion"])  # identical in every process
    scored = [cases[i] for i in seen.tolist()]
    spacings = {case.name: case.spacing_mm for case in scored}
    return evaluation_of(spacings, {name: table[seen] for name, table in tables.items()}, spec, scoring, unit), scored


def evaluation_of(
    spacings: Mapping[str, Sequence[float] | None],
    tables: Mapping[str, Any],
    spec: DataSpec,
    scoring: Scoring,
    unit: str,
    **more: Any,
) -> Evaluation:
    """Return the evaluation of cases by the values of the measures, one row for each case.

    Args:
        spacings: Spacing in mm by name of the case.
        tables: Values of the measures.
        spec: Description of the data.
        scoring: What was scored.
        unit: Unit of distances.
        more: Further fields of the evaluation.
    """
    return Evaluation(
        list(spacings),
        spec.output_names,
        None if spec.regions else spec.background,
        regions=[region.classes for region in spec.regions],
        labels=spec.class_names,
        unit=unit,
        tolerance=scoring.nsd_tolerance,
        voxel_ml=[math.prod(spacing) / 1000 if spacing else math.nan for spacing in spacings.values()],
        **tables,
        **more,
    )

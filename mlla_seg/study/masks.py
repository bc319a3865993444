"""Scores of folders of masks that other programs made, such as nnU-Net, by our protocol and against the same truth.

The truth, its cases and the ids of the classes are those of a config. A mask belongs to the case of its name and is
read as the true mask of that case is, so it must have the geometry of the image and the card's ids. A folder with the
name of a case holds one binary mask per organ instead, see :mod:`mlla_seg.study.organs`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlla_seg._version import __version__
from mlla_seg.data.cases import Case
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.registry import is_readable, suffix_of
from mlla_seg.data.reading import open_case
from mlla_seg.data.shipped import read_config
from mlla_seg.errors import InputError, about
from mlla_seg.evaluation.postprocessing_choice import PackedMask
from mlla_seg.evaluation.report import summary
from mlla_seg.evaluation.surface_distance import BY_AREA, MEASURES
from mlla_seg.evaluation.tables import write_csv, write_json
from mlla_seg.progress import note, progress
from mlla_seg.study.organs import OrganMasks, organ_files
from mlla_seg.study.scores import SAME_IN_ALL
from mlla_seg.training.cli import folders_of_masks
from mlla_seg.training.config_sections import data_options
from mlla_seg.training.scoring import Scoring, case_scores, evaluation_of

SPLITS = {"validate": "val", "test": "test"}


@dataclass(frozen=True)
class Truth:
    """What masks are scored against.

    Args:
        data: Data module of the config.
        split: ``val`` or ``test``.
        scoring: Options of scoring.
        about: Entries of ``summary.json`` on which compared runs must agree.
    """

    data: SegmentationDataModule
    split: str
    scoring: Scoring
    about: Mapping[str, Any]

    @property
    def cases(self) -> list[Case]:
        """The cases of the split."""
        return list(getattr(self.data.splits, self.split))


def truth_of(config: Path | str, split: str, metric: str, reference: Mapping[str, Any] | None = None) -> Truth:
    """Return the truth of a config.

    Args:
        config: Config of ``fit``, or the ``config.yaml`` of a scored run.
        split: ``val`` or ``test``.
        metric: Score to compare.
        reference: ``summary.json`` of the scored run to compare with, if any.

    Raises:
        InputError: The config has no data, or its split no cases.
    """
    content = read_config(str(config))
    options = content.get("data")
    if not isinstance(options, dict):
        raise InputError(f"{config}: has no section 'data'. Give a config of fit.")
    data = SegmentationDataModule(**data_options(content))
    known = {key: content[key] for key in ("nsd_tolerance", "boundary_width") if key in content}
    about = {
        "card": data.card.name,
        "background": data.card.background,
        "split": split,
        "masks": ", ".join(folders_of_masks(data, split)),
        "fold": data.fold,
        "test-time augmentation": False,
    }
    if reference is not None:  # of which test-time augmentation and the like mean nothing to masks
        about |= {key: reference[key] for key in SAME_IN_ALL if key in reference and key not in about}
        about["test-time augmentation"] = reference.get("test-time augmentation")
    scoring = Scoring(distances=metric in (*MEASURES, *BY_AREA), surface_area=metric in BY_AREA, **known)
    truth = Truth(data, split, scoring, about)
    if not truth.cases:
        raise InputError(f"{config}: the split {split} has no cases. Choose another with --split.")
    return truth


def is_folder_of_masks(folder: Path) -> bool:
    """Return whether a folder holds images that could be masks, and no scores."""
    if not folder.is_dir() or (folder / "per_case.csv").exists():
        return False
    return any(is_readable(path) or organ_files(path) for path in folder.iterdir())


def score_masks(folder: Path, truth: Truth, output: Path) -> Path:
    """Score a folder of masks, and write ``per_case.csv`` and ``summary.json`` as ``test`` does.

    Cases without a mask are left out, and masks of no case ignored; both are said, with their number and a name.

    Raises:
        InputError: No mask belongs to a case, or one cannot be read as a mask of its case.
    """
    spec = truth.data.spec
    found, organs = _masks_of_cases(folder, truth)
    cases = [case for case in truth.cases if case.name in found]
    read = []
    with progress(len(cases), f"Scoring {folder.name}", "case", show=sys.stderr.isatty()) as bar:
        for case in cases:
            path = found[case.name]
            with organs.joined(path) if organs is not None and path.is_dir() else nullcontext(path) as joined:
                read.append(_read(truth.data, case, joined, path))
            bar.update()
    if organs is not None:
        organs.note_all(len(cases))
    spacings = [spacing for _, _, spacing in read]
    unit = "mm" if all(spacings) else "voxel"
    wanted = {"surfaces"} if truth.scoring.distances else set()
    wanted |= {"surface_areas"} if truth.scoring.surface_area else set()
    wanted |= {"boundaries"} if all(mask.shape[0] == 1 for _, mask, _ in read) else set()
    measures: dict[str, list[Any]] = {}
    for prediction, mask, spacing in read:
        at = spacing if unit == "mm" and spacing else (1.0, 1.0, 1.0)
        labels, true = (torch.from_numpy(packed.labels().copy()) for packed in (prediction, mask))
        for name, values in case_scores(labels, true, at, truth.scoring, spec, wanted):
            measures.setdefault(name, []).append(values.float() if values.is_floating_point() else values)
    tables: dict[str, Any] = {name: torch.stack(values) for name, values in measures.items()}
    named = {case.name: spacing for case, spacing in zip(cases, spacings, strict=True)}
    evaluation = evaluation_of(named, tables, spec, truth.scoring, unit, patients=[case.patient for case in cases])
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "per_case.csv", evaluation.rows())
    about = {**truth.about, "checkpoint": str(folder), "version": __version__}
    write_json(output / "summary.json", summary(evaluation, truth.split, about))
    return output


def _masks_of_cases(folder: Path, truth: Truth) -> tuple[dict[str, Path], OrganMasks | None]:
    """Return the mask of each case by the case's name, and what joins folders of one file per organ, if there are any.

    Raises:
        InputError: No mask belongs to a case.
    """
    files = {path.name: path for path in sorted(folder.iterdir()) if organ_files(path)}
    files |= {_stem(path): path for path in sorted(folder.iterdir()) if path.is_file() and is_readable(path)}
    found: dict[str, Path] = {}
    for case in truth.cases:
        if named := [files[name] for name in _names(case) if name in files]:
            found[case.name] = named[0]
    if not found:
        raise InputError(
            f"{folder}: none of its {len(files)} masks, such as {next(iter(files.values())).name}, has the name of a "
            f"case, such as {truth.cases[0].name}. Name masks as the cases or their images."
        )
    if missing := [case.name for case in truth.cases if case.name not in found]:
        note(
            f"note: {folder} has no mask of {len(missing)} of {len(truth.cases)} cases, such as {missing[0]}; they are "
            "left out of the whole comparison."
        )
    used = set(found.values())
    if extra := [path.name for path in files.values() if path not in used]:
        note(f"note: {len(extra)} masks in {folder} belong to no case of the split, such as {extra[0]}; ignored.")
    organs = OrganMasks(truth.data.card, folder) if any(path.is_dir() for path in files.values()) else None
    return found, organs


def _read(data: SegmentationDataModule, case: Case, mask: Path, shown: Path) -> tuple[PackedMask, PackedMask, Any]:
    """Return predicted and true class indices ``(S, H, W)`` and the spacing of a case; messages name ``shown``."""
    if len(case.images) > 1:
        raise InputError(f"{case.name}: consists of {len(case.images)} files of slices, which no single mask covers.")
    truth, spacing = _labels(data, case)
    with about(shown) if shown != mask else nullcontext():
        labels, _ = _labels(data, replace(case, masks=(mask,)))
    if labels.shape != truth.shape:
        raise InputError(f"{shown}: has shape {labels.shape}, the truth of {case.name} has {truth.shape}.")
    without = (labels == IGNORE_INDEX) & (truth != IGNORE_INDEX)
    if without.any():
        if data.spec.background is None:
            raise InputError(f"{shown}: has {without.sum()} voxels of no class where the truth has one.")
        labels[without] = data.spec.background
    return PackedMask(labels), PackedMask(truth), spacing


def _labels(data: SegmentationDataModule, case: Case) -> tuple[Array, Any]:
    with open_case(data.card, case) as source:
        slices, _, height, width = source.shape
        labels = np.empty((slices, height, width), np.uint8)
        for piece in source.pieces:
            count, rows = piece.labels.shape[:2]
            labels[piece.first : piece.first + count, piece.top : piece.top + rows] = piece.labels
        return labels, source.spacing_mm


def _names(case: Case) -> Sequence[str]:
    """Return the names under which other programs write the mask of a case: its own, or that of its first image."""
    image = _stem(case.images[0][0])
    return [case.name, image, image.removesuffix("_0000"), f"{image}_seg"]


def _stem(path: Path) -> str:
    return path.name[: -len(suffix_of(path))] if suffix_of(path) else path.name

"""What a run trains on: the samples of its cases, and what the network must remember of their card."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlla_seg.data.card import Card
from mlla_seg.data.dataset import SliceDataset
from mlla_seg.data.dataspec import DataSpec, Normalisation
from mlla_seg.data.pairs import PairedDataset
from mlla_seg.data.patches import PatchDataset
from mlla_seg.data.sample_options import SampleOptions
from mlla_seg.data.slice_augment import SliceAugment
from mlla_seg.data.store.case import StoredCase
from mlla_seg.data.volume_augment import VolumeAugment
from mlla_seg.errors import InputError


def training_set(
    cases: Sequence[StoredCase], spec: DataSpec, options: SampleOptions, seed: int
) -> SliceDataset | PatchDataset:
    """Return the augmented samples of cases: slices, or patches of volumes if crops have three numbers."""
    how: dict[str, Any] = {
        "intensity": options.intensity,
        "normalisation": spec.normalisation,
        "context": options.context,
    }
    drawn: Any = (spec.view, float(options.balance), seed)
    if options.axes == 3:
        return PatchDataset(cases, VolumeAugment(options.augment, spec.spacing_mm, options.mirror, **how), *drawn)
    augment = SliceAugment(options.augment, options.crop, options.mirror, options.elastic, **how)
    return SliceDataset(cases, augment, *drawn)


def paired(
    labelled: SliceDataset | PatchDataset,
    cases: Sequence[StoredCase],
    spec: DataSpec,
    options: SampleOptions,
    seed: int,
    folder: Path,
) -> PairedDataset:
    """Return training samples, each with one of cases without labels.

    Args:
        labelled: The samples of the training split.
        cases: Cases without labels, of the folder.
        spec: What the network must remember of its data.
        options: What a sample is; without labels, none is drawn around a class.
        seed: Random seed.
        folder: The folder, for messages.

    Raises:
        InputError: There is no case.
    """
    if not cases:
        raise InputError(f"--data.unlabelled: {folder} has no image that may be trained on.")
    moved = training_set(cases, spec, replace(options, intensity=0.0, balance=0.0), seed + 1)
    return PairedDataset(labelled, moved, options.intensity, seed)


def spec_of(
    card: Card,
    options: SampleOptions,
    normalisation: Normalisation,
    spacing_mm: tuple[float | None, ...] | None,
    patch_size: tuple[int, ...] | None,
) -> DataSpec:
    """Return what a network must remember of data with this card.

    Args:
        card: The card.
        options: What its training samples are.
        normalisation: That of the card, or as measured.
        spacing_mm: Spacing of slices, rows and columns to which volumes are resampled, None for an axis to keep.
        patch_size: Size of its samples along each axis, None for whole slices.
    """
    resize = options.resize
    return DataSpec(
        name=card.name,
        modality=card.modality,
        channels=card.seen,
        bands=card.bands,
        classes=card.class_infos,
        background=card.background_index,
        normalisation=normalisation,
        plane=card.plane,
        array_units=card.array_units,
        spacing_mm=spacing_mm,
        resize=(resize[0], resize[1]) if isinstance(resize, Sequence) else resize,
        patch_size=patch_size,
        context=options.context,
        nodata=None if card.nodata is None or math.isnan(card.nodata) else card.nodata,
        nodata_rule=card.nodata_rule,
        grid=card.grid if card.grid in card.bands else None,
        regions=card.region_infos,
        mirrored=options.mirrored,
    )

"""A second config, which sees volumes as volumes, beside that of slices."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from mlla_seg.data.card_sections import SPLITS
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.halving import SMALLEST, known_spacing, patch_for
from mlla_seg.data.overrides import for_volumes
from mlla_seg.data.patch_choice import VOXELS, median_shape
from mlla_seg.data.patches import PatchDataset
from mlla_seg.data.store.measured import measured_spacing
from mlla_seg.data.volume_augment import VolumeAugment
from mlla_seg.planning.budget import LARGEST_BATCH, PIXELS, measure, pace
from mlla_seg.planning.choices import Choice, Section
from mlla_seg.training.module import SegmentationModule

LEAST_BATCH = 2
FOR_SLICES = ("context", "resize", "crop", "balance", "batch_size")
"""Options that are chosen anew."""
WHY_SLICES = (
    "volumes as volumes: patches on three axes. Slices, as in config.yaml, are the default, because they train with "
    "less memory and more steps in the same time; which of them gives better masks, only scores on your data tell"
)


def has_volumes(data: SegmentationDataModule) -> bool:
    """Return whether the cases have enough slices for a network of volumes to halve them."""
    shapes = sorted(case.shape[0] for cases in data.by_split.values() for case in cases)
    return shapes[len(shapes) // 2] >= 2 * SMALLEST


def config_of_volumes(
    config: dict[str, Any], data: SegmentationDataModule, name: dict[str, Any], device: str, minutes: float
) -> dict[str, Choice | Section]:
    """Return the config of volumes that corresponds to one of slices, measured on this machine.

    Args:
        config: The config of slices: choices and sections of choices.
        data: Its data.
        name: Logger of the runs.
        device: ``cpu`` or ``cuda``.
        minutes: Time to train.
    """
    by_split = data.by_split
    stored = [case for split in SPLITS for case in by_split[split]]
    spacing = measured_spacing(for_volumes(data.card), stored)
    shape = median_shape(stored, spacing)
    voxels = PIXELS if device == "cpu" else VOXELS
    patch = patch_for(shape, known_spacing(spacing, shape), voxels // LEAST_BATCH)
    geometry: dict[str, Any] = {"spacing_mm": tuple(spacing) if spacing else None, "patch_size": tuple(patch)}
    spec = replace(data.spec, **geometry, context=0, resize=None)
    samples = len(PatchDataset(by_split["train"], VolumeAugment("none"), spec.view))
    model = {
        **config["model"],
        "decoder": Choice("mlla_unet_fine", "with skips at full and half resolution"),
        "deep_supervision": Choice(
            True, "coarser levels learn the classes, too; on the hippocampus one was learned late without"
        ),
        "dims": Choice(3, WHY_SLICES),
    }
    module = SegmentationModule(**{key: choice.value for key, choice in model.items()}, spec=spec)
    largest = min(samples, max(LEAST_BATCH, min(LARGEST_BATCH, voxels // math.prod(patch))))
    budget = measure(module, torch.randn(spec.in_channels, *patch), largest, torch.device(device))
    seen = f"{shape[0]} x {shape[1]} x {shape[2]} voxels"
    where = f" at {' x '.join(f'{step:.3g}' for step in spacing)} mm" if spacing else ""
    options = {
        **{key: choice for key, choice in config["data"].items() if key not in FOR_SLICES},
        "crop": Choice(patch, f"slices, rows, columns of a patch; the median volume has {seen}{where}"),
        "balance": Choice(0.33, "a third of the patches is drawn around a class, as nnU-Net does"),
        "batch_size": Choice(budget.batch_size, budget.in_words),
    }
    trainer = {**config["trainer"], **pace(budget, samples, minutes), "logger": Choice(name)}
    return {**config, "model": model, "data": options, "trainer": trainer}

"""Post-processing in ``validate`` and ``test``: applied as stored in the checkpoint, and chosen on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.postprocessing import in_words
from mlla_seg.errors import InputError
from mlla_seg.evaluation.postprocessing_choice import choose
from mlla_seg.evaluation.tables import format_table
from mlla_seg.inference.targets import is_scene
from mlla_seg.models.checkpoint import read_checkpoint
from mlla_seg.progress import note, say
from mlla_seg.training.module import SegmentationModule
from mlla_seg.training.saving import DurableCheckpointIO


def prepare_postprocessing(
    content: Mapping[str, Any],
    module: SegmentationModule,
    data: SegmentationDataModule,
    command: str,
    trainer: Trainer,
) -> None:
    """Set what a scored module applies or chooses, and say what it applies.

    Args:
        content: The checkpoint.
        module: Module with its options of scoring.
        data: Data module.
        command: ``validate`` or ``test``.
        trainer: Trainer that scores it.

    Raises:
        InputError: Post-processing cannot be chosen here.
    """
    stored = DataSpec.from_dict(content["hyper_parameters"]["spec"], "checkpoint")
    cases = data.splits.test if command == "test" else data.splits.val
    scenes = [case.name for case in cases if any(map(is_scene, case.images))]
    if module.scoring.choose_postprocessing is not None:
        if trainer.world_size > 1:
            raise InputError("--choose_postprocessing needs a single process: --trainer.devices 1.")
        _require_choice(module, scenes, Path(module.scoring.choose_postprocessing))
        module.candidates = []
    elif stored.postprocessing and module.scoring.postprocessing:
        if scenes:
            reason = f"{len(scenes)} cases are rasters, such as {scenes[0]}, which predict processes in parts"
            _say(trainer, f"note: the post-processing of the checkpoint is not applied: {reason}.")
            return
        module.postprocessing = stored.postprocessing
        steps = in_words(stored.postprocessing, stored.class_names)
        but = ", but not in the TransUNet evaluation" if module.scoring.evaluation == "transunet" else ""
        _say(trainer, f"note: post-processing is applied{but}: {steps}; --postprocessing false leaves it out.")


def _say(trainer: Trainer, text: str) -> None:
    if trainer.is_global_zero:
        note(text)


def _require_choice(module: SegmentationModule, scenes: Sequence[str], target: Path) -> None:
    if target.suffix != ".ckpt":
        raise InputError(f"--choose_postprocessing {target}: the name of a checkpoint must end with .ckpt.")
    if target.exists():
        raise InputError(f"--choose_postprocessing {target}: already exists; choose another name.")
    if module.spec.background is None:
        raise InputError("--choose_postprocessing needs a background class, which removed voxels become.")
    if scenes:
        raise InputError(
            f"--choose_postprocessing needs whole masks, but {len(scenes)} validation cases are rasters of any size, "
            f"such as {scenes[0]}, which predict processes in parts. For small polygons see predict --min_area_m2."
        )


def choose_postprocessing(module: SegmentationModule, data: SegmentationDataModule, checkpoint: str) -> None:
    """Choose post-processing on the validation cases just scored, and write a copy of the checkpoint with it."""
    assert module.candidates is not None and module.scoring.choose_postprocessing is not None
    patients = {case.name: case.patient for case in data.splits.val}
    choice = choose(module.candidates, [patients[case.name] for case in module.candidates], module.spec)
    if not choice.steps:
        say("\nNo post-processing raises the mean Dice of the validation split; no checkpoint is written.")
        return
    say("\nPost-processing: " + in_words(choice.steps, module.spec.class_names))
    say(format_table(*choice.table()))
    say(
        f"Measured on the {len(module.candidates)} validation cases it was chosen on, so elsewhere the gain may be "
        "smaller; test measures it."
    )
    content = read_checkpoint(checkpoint)
    options = content["hyper_parameters"]
    spec = replace(DataSpec.from_dict(options["spec"], checkpoint), postprocessing=choice.steps)
    content["hyper_parameters"] = {**options, "spec": spec.to_dict()}
    target = Path(module.scoring.choose_postprocessing)
    target.parent.mkdir(parents=True, exist_ok=True)
    DurableCheckpointIO().save_checkpoint(content, target)
    say(f"Checkpoint with post-processing: {target}")

"""Find the checkpoint to resume or score, and compare its options with those of the command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from mlla_seg.data.block_splits import seen_in_training
from mlla_seg.data.cases import Case
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.overrides import card_of
from mlla_seg.data.sample_options import axes_of
from mlla_seg.errors import InputError
from mlla_seg.models.checkpoint import SHARED_BY_MEMBERS, read_checkpoint
from mlla_seg.places import shareable
from mlla_seg.progress import note
from mlla_seg.training.loggers import run_folder
from mlla_seg.training.module import SegmentationModule
from mlla_seg.training.versions import newest

REFUSED, USED, PAST, KEPT = "refused", "used", "past", "kept"
"""How a value that differs from the checkpoint's is handled: refused, because the weights would not fit; used from now
on; refused, because it only matters at the start of training; or replaced by the checkpoint's, because configs of
version 0.1 lack the option."""

ON_RESUME = {
    "encoder": REFUSED,
    "decoder": REFUSED,
    "decoder_depths": REFUSED,
    "drop_path_rate": USED,
    "mixer": REFUSED,
    "block": REFUSED,
    "norm_outputs": KEPT,
    "dims": REFUSED,
    "strides": REFUSED,
    "pretrained": PAST,
    "freeze": USED,
    "freeze_steps": USED,
    "optimizer": REFUSED,
    "lr": USED,
    "encoder_lr_factor": USED,
    "weight_decay": USED,
    "schedule": USED,
    "warmup": USED,
    "loss": USED,
    "ce_weight": USED,
    "dice_weight": USED,
    "class_weights": USED,
    "squared_dice": USED,
    "deep_supervision": REFUSED,
    "consistency": USED,
    "consistency_rampup": USED,
    "checkpoint_stages": USED,
    "eval_batch_size": USED,
}
"""How a changed value of each module option is handled on resume."""
PLACES = ("root", "cache_dir", "verify", "num_workers")
"""Data options that only affect where and how data are read; all others affect training."""
TRAINER = (
    *("max_epochs", "max_steps", "max_time", "precision", "accumulate_grad_batches", "limit_train_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm"),
)
"""Trainer options that affect training. Like those of the data, changed values are used from now on."""


def name_of(config: Any) -> str:
    """Return the name of the card, after which runs are named unless the config names them."""
    return card_of(config.data.card, config.data.root).name


def find_checkpoint(name: str, config: Any, to_train: bool = False) -> Path | None:
    """Return the path of a checkpoint, given directly or as the newest ``best`` or ``last`` of this experiment.

    Args:
        name: ``best``, ``last`` or a path.
        config: The options of the command.
        to_train: Whether training is resumed from it; then ``last`` may be absent, and the result is none.

    Raises:
        InputError: There is no checkpoint, it was not written by this program, or its network differs from the config.
    """
    folder = run_folder(config)
    path = Path(name)
    if name in ("best", "last"):
        found = newest(name, folder, lambda content: _fold_of(content) == _fold_in(config))
        if found is None and name == "last" and to_train:
            return None
        if found is None:
            of_fold = "" if config.data.fold is None else f" of fold {config.data.fold}"
            raise InputError(
                f"No checkpoint{of_fold} below {folder.absolute()}. Run fit first, or give the path of a .ckpt file."
            )
        path = found
    content = read_checkpoint(path)
    _keep(path, content["hyper_parameters"], config)
    _require_same_network(path, content["hyper_parameters"], config)
    if to_train:
        _require_same_start(path, content["hyper_parameters"], config)
    return path


def _fold_in(config: Any) -> tuple[int, int] | None:
    """Return fold and number of folds of the options, if any."""
    return None if config.data.fold is None else (config.data.fold, config.data.folds)


def _fold_of(content: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return fold and number of folds that a checkpoint was trained with, if any."""
    saved = content.get(SegmentationDataModule.__qualname__, {})
    return None if saved.get("fold") is None else (saved["fold"], saved["folds"])


def require_unseen(path: str | Path, content: Mapping[str, Any], cases: Sequence[Case]) -> None:
    """Check that a checkpoint is not scored on patients of its training data.

    Raises:
        InputError: It was trained on some of them; the message gives their number and one name.
    """
    saved = content.get(SegmentationDataModule.__qualname__, {})
    if seen := seen_in_training(cases, saved):
        raise InputError(
            f"{path}: was trained on {len(seen)} of the patients to be scored, such as {seen[0]}. "
            "Use the checkpoint of the same --data.fold, data and splits."
        )


def require_same_view(path: str | Path, saved: Mapping[str, Any], spec: DataSpec) -> None:
    """Check that scoring preprocesses data as training and prediction do.

    Raises:
        InputError: An option or the normalisation differs.
    """
    was, now = DataSpec.from_dict(saved, str(path)), spec
    before, after = was.to_dict(), now.to_dict()
    for key in SHARED_BY_MEMBERS:
        if before[key] != after[key]:
            value = [None] * 3 if key == "spacing_mm" and before[key] is None else before[key]
            value = f"'{json.dumps(value)}'" if isinstance(value, list) else "null" if value is None else value
            option = f"set --data.{'crop' if key == 'patch_size' else key} {value}"
            option = "use the card of its training" if key in ("array_units", "regions") else option
            raise InputError(
                f"{path}: was trained with {key} {before[key]}, but the options and the card give "
                f"{after[key]}. To score it, {option}."
            )
    if was.normalisation.kind != now.normalisation.kind:
        raise InputError(
            f"{path}: was trained with normalisation {before['normalisation']}, but the card gives "
            f"{after['normalisation']}. To score it, use the card of its training."
        )


def _keep(path: Path, saved: Mapping[str, Any], config: Any) -> None:
    """Set the options that follow the checkpoint rather than the config."""
    for key, rule in ON_RESUME.items():
        if rule == KEPT and (was := _saved(saved, key)) != config.model[key]:
            note(f"note: {key} is {was}, as in {path}")
            config.model[key] = was
    if config.model.strides is None:  # chosen for the spacing of its training
        config.model.strides = saved.get("strides")
    patch_size = saved["spec"].get("patch_size") or ()
    if len(patch_size) == axes_of(config.model.dims, config.data.crop) == 3 != len(config.data.crop or ()):
        config.data.crop = list(patch_size)  # chosen for the data of its training


def _require_same_network(path: Path, saved: Mapping[str, Any], config: Any) -> None:
    """Check that the weights of a checkpoint fit the network of the config."""
    card = card_of(config.data.card, config.data.root, config.data.channels)
    both = {key: (_saved(saved, key), config.model[key]) for key, rule in ON_RESUME.items() if rule == REFUSED}
    spec = DataSpec.from_dict(saved["spec"], str(path))
    both["dims"] = (spec.axes, axes_of(config.model.dims, config.data.crop))
    both["classes"] = (spec.class_names, card.class_names)
    both["regions"] = (list(spec.regions), list(card.region_infos))
    both["channels"] = (list(spec.channels), list(card.seen))
    both["context"] = (spec.context, config.data.context)
    for key, (was, now) in both.items():
        if was != now:
            raise InputError(
                f"{path}: was trained with {key} {was}, but the config gives {now}. Use the config of its training: "
                f"{path.parent.parent / 'config.yaml'}, unless the checkpoint was moved."
            )


def _require_same_start(path: Path, saved: Mapping[str, Any], config: Any) -> None:
    """Check that options which only matter at the start of training are unchanged."""
    for key, rule in ON_RESUME.items():
        if rule == PAST and (was := _saved(saved, key)) != (now := config.model[key]):
            if was and now and shareable(was) == shareable(now):
                continue
            raise InputError(
                f"{path}: its training started with {key} {was}, but the config gives {now}. Leave --model.{key} "
                "unchanged, or start a new training without --ckpt_path."
            )


def _saved(hparams: Mapping[str, Any], key: str) -> Any:
    """Return an option of a checkpoint; one that older versions lacked has today's default."""
    return hparams[key] if key in hparams else signature(SegmentationModule).parameters[key].default


def resume_spec(path: str | Path, saved: Mapping[str, Any], module: SegmentationModule) -> None:
    """Keep the checkpoint's normalisation constants, which belong to its weights.

    They differ from the current ones if they are computed from training data that changed, or if the card was edited.

    Raises:
        InputError: The kind of normalisation differs.
    """
    was, now = DataSpec.from_dict(saved, str(path)).normalisation, module.spec.normalisation
    before, after = was.to_dict(), now.to_dict()
    if was.kind != now.kind:
        raise InputError(
            f"{path}: was trained with normalisation {before}, but the card gives {after}. Use the card it was "
            "trained with, or start a new training without --ckpt_path."
        )
    if was != now:
        note(f"note: the checkpoint's normalisation is kept: {before} instead of {after}")
        module.spec = replace(module.spec, normalisation=was)
        module.hparams["spec"] = module.spec.to_dict()


def options_of(config: Any) -> dict[str, Any]:
    """Return the data and trainer options that affect training, as plain values for the checkpoint."""
    given = {key: value for key, value in config.data.items() if key not in PLACES}
    if given.get("exclude"):  # names of patients stay out of checkpoints
        given["exclude"] = f"{len(given['exclude'])} names"
    given |= {key: config.trainer.get(key) for key in TRAINER}
    plain = (bool, int, float, str, list, type(None))
    values = {key: value if isinstance(value, plain) else str(value) for key, value in given.items()}
    return {key: shareable(value) if isinstance(value, str) else value for key, value in values.items()}


def note_differences(content: Mapping[str, Any], hparams: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Print a note of all options that differ from the checkpoint's and are used from now on."""
    saved = content["hyper_parameters"]
    both = {key: (_saved(saved, key), hparams[key]) for key, rule in ON_RESUME.items() if rule == USED}
    options_then = {k: shareable(v) if isinstance(v, str) else v for k, v in content.get("options", {}).items()}
    both |= {key: (was, options[key]) for key, was in options_then.items() if key in options}
    differing = [f"{key} {now} instead of {was}" for key, (was, now) in both.items() if was != now]
    if differing:
        note(f"note: resumed with {', '.join(differing)}")

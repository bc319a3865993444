"""From which checkpoint a command goes on, and what becomes of options that differ from those it was trained with."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from mlla_seg.data.cases import Case
from mlla_seg.data.datamodule import SegmentationDataModule, card_of
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.errors import InputError
from mlla_seg.models.checkpoint import SHARED_BY_MEMBERS, read_checkpoint
from mlla_seg.training.module import SegmentationModule

UNNAMED = "lightning_logs"
"""Lightning's name of runs that have none."""
RUNS = "runs"
"""Where runs are logged unless the config says otherwise, by the name of the card."""

REFUSED, USED, PAST, KEPT = "refused", "used", "past", "kept"
"""What becomes of another value: the checkpoint does not fit it; it is used from here on; it mattered only at first,
so it is refused; the checkpoint's stays, as configs of version 0.1 do not say it."""

ON_RESUME = {
    "encoder": REFUSED,
    "decoder": REFUSED,
    "decoder_depths": REFUSED,
    "drop_path_rate": USED,
    "mixer": REFUSED,
    "norm_outputs": KEPT,
    "pretrained": PAST,
    "lr": USED,
    "encoder_lr_factor": USED,
    "weight_decay": USED,
    "schedule": USED,
    "warmup": USED,
    "ce_weight": USED,
    "dice_weight": USED,
    "class_weights": USED,
    "squared_dice": USED,
    "deep_supervision": REFUSED,
    "checkpoint_stages": USED,
    "eval_batch_size": USED,
}
"""What becomes of each option of the module that is not as the checkpoint has it."""
PLACES = ("root", "cache_dir", "num_workers")
"""Options of the data that say where and how they are read; all others decide what is learned."""
TRAINER = (
    *("max_epochs", "max_steps", "max_time", "precision", "accumulate_grad_batches", "limit_train_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm"),
)
"""Options of the trainer that decide what is learned. As those of the data, they are used as they are given."""


def name_runs(config: Any) -> None:
    """Gives runs the name of the card where the config gives their logger none."""
    arguments = config.trainer.logger.get("init_args", {}) if hasattr(config.trainer.get("logger"), "get") else {}
    if arguments.get("name") == UNNAMED:
        arguments["name"] = card_of(config.data.card, config.data.root).name


def run_folder(config: Any) -> Path:
    """Where the configured logger keeps the versions of this experiment."""
    logger = config.trainer.get("logger")
    if not hasattr(logger, "get"):
        return Path(RUNS) / card_of(config.data.card, config.data.root).name
    arguments = logger.get("init_args", {})
    return Path(arguments.get("save_dir") or RUNS) / (arguments.get("name") or "")


def find_checkpoint(name: str, config: Any, to_train: bool = False) -> Path:
    """A checkpoint by path, or the newest ``best`` or ``last`` one of this experiment.

    Args:
        name: ``best``, ``last`` or a path.
        config: The options of the command.
        to_train: Whether the training goes on from it.

    Raises:
        InputError: There is none, it was not written by this program, or it holds another network than the config.
    """
    folder = run_folder(config)
    path = Path(name)
    if name in ("best", "last"):
        found = sorted(folder.glob("**/checkpoints/*.ckpt"), key=lambda path: path.stat().st_mtime)
        found = [path for path in found if _fold_of(read_checkpoint(path)) == _fold_in(config)]
        chosen = [path for path in found if path.stem == name] or [path for path in found if path.stem == "last"]
        if not chosen:
            of_fold = "" if config.data.fold is None else f" of fold {config.data.fold}"
            raise InputError(
                f"No checkpoint{of_fold} below {folder.absolute()} yet. Run fit first, or give the path of a .ckpt."
            )
        path = chosen[-1]
    content = read_checkpoint(path)
    _keep(path, content["hyper_parameters"], config)
    _require_same_network(path, content["hyper_parameters"], config)
    if to_train:
        _require_same_start(path, content["hyper_parameters"], config)
    return path


def _fold_in(config: Any) -> tuple[int, int] | None:
    """Fold and number of folds that the options ask for."""
    return None if config.data.fold is None else (config.data.fold, config.data.folds)


def _fold_of(content: Mapping[str, Any]) -> tuple[int, int] | None:
    """Fold and number of folds that a checkpoint was trained with."""
    saved = content.get(SegmentationDataModule.__qualname__, {})
    return None if saved.get("fold") is None else (saved["fold"], saved["folds"])


def require_unseen(path: str | Path, content: Mapping[str, Any], cases: Sequence[Case]) -> None:
    """Refuses to score a network on patients that it has learned from.

    Raises:
        InputError: Says how many and one of them.
    """
    learned = set(content.get(SegmentationDataModule.__qualname__, {}).get("patients", ()))
    if seen := sorted({case.patient for case in cases} & learned):
        raise InputError(
            f"{path}: has learned from {len(seen)} of the patients it would be scored on, such as {seen[0]}. "
            "Use the checkpoint of the same --data.fold, data and splits."
        )


def require_same_view(path: str | Path, saved: Mapping[str, Any], spec: DataSpec) -> None:
    """Refuses to score a network on data that are brought to it in another way than in training and prediction.

    Raises:
        InputError: Says what differs.
    """
    was, now = DataSpec.from_dict(saved, str(path)), spec
    before, after = was.to_dict(), now.to_dict()
    for key in SHARED_BY_MEMBERS:
        if before[key] != after[key]:
            value = [None] * 3 if key == "spacing_mm" and before[key] is None else before[key]
            value = f"'{json.dumps(value)}'" if isinstance(value, list) else "null" if value is None else value
            option = f"say --data.{'crop' if key == 'patch_size' else key} {value}"
            raise InputError(
                f"{path}: was trained with {key} {before[key]}, the options and the card say {after[key]}. Score it as "
                f"predict would use it: {'with its own card' if key == 'array_units' else option}."
            )
    if was.normalisation.kind != now.normalisation.kind:
        raise InputError(
            f"{path}: was trained with normalisation {before['normalisation']}, the card says "
            f"{after['normalisation']}. Score it as predict would use it: with its own card."
        )


def _keep(path: Path, saved: Mapping[str, Any], config: Any) -> None:
    """Gives the config what stays as the checkpoint has it."""
    for key, rule in ON_RESUME.items():
        if rule == KEPT and (was := _saved(saved, key)) != config.model[key]:
            print(f"note: {key} is {was}, as {path} has it", file=sys.stderr)
            config.model[key] = was


def _require_same_network(path: Path, saved: Mapping[str, Any], config: Any) -> None:
    """Refuses a checkpoint whose weights cannot fit the network that the config describes."""
    card = card_of(config.data.card, config.data.root, config.data.channels)
    both = {key: (_saved(saved, key), config.model[key]) for key, rule in ON_RESUME.items() if rule == REFUSED}
    spec = DataSpec.from_dict(saved["spec"], str(path))
    both["classes"] = (spec.class_names, card.class_names)
    both["channels"] = (list(spec.channels), list(card.seen))
    both["context"] = (spec.context, config.data.context)
    for key, (was, now) in both.items():
        if was != now:
            raise InputError(
                f"{path}: was trained with {key} {was}, the config says {now}. Give the config it was trained with: "
                f"{path.parent.parent / 'config.yaml'} where it still lies there."
            )


def _require_same_start(path: Path, saved: Mapping[str, Any], config: Any) -> None:
    """Refuses other options that only matter before the first step."""
    for key, rule in ON_RESUME.items():
        if rule == PAST and (was := _saved(saved, key)) != (now := config.model[key]):
            raise InputError(
                f"{path}: its training began with {key} {was}, the config says {now}. Leave --model.{key} as it "
                "was, or train anew without --ckpt_path."
            )


def _saved(hparams: Mapping[str, Any], key: str) -> Any:
    """An option as a checkpoint has it: what older versions did not know was what is the default today."""
    return hparams[key] if key in hparams else signature(SegmentationModule).parameters[key].default


def require_something_left(path: str | Path, content: Mapping[str, Any], trainer: Any) -> None:
    """Refuses to go on beyond the end of the training, and says where it is reached already.

    Raises:
        InputError: Says how far the checkpoint is.
    """
    epochs = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    for key, done, what in (("max_epochs", epochs, "epochs"), ("max_steps", content["global_step"], "steps")):
        wanted = trainer.get(key)
        if wanted is None or wanted < 0 or done < wanted:
            continue
        message = f"{path}: has been trained for {done} {what}, --trainer.{key} is {wanted}"
        if done > wanted:
            raise InputError(f"{message}. Give a larger one to go on.")
        print(f"note: {message}, so nothing is left to train.", file=sys.stderr)


def resume_spec(path: str | Path, saved: Mapping[str, Any], module: SegmentationModule) -> None:
    """Keeps the numbers by which the checkpoint's network normalises, which come with its weights.

    They differ where they are measured on the training data, and where a card was changed.

    Raises:
        InputError: It normalises in another way.
    """
    was, now = DataSpec.from_dict(saved, str(path)).normalisation, module.spec.normalisation
    before, after = was.to_dict(), now.to_dict()
    if was.kind != now.kind:
        raise InputError(
            f"{path}: was trained with normalisation {before}, the card says {after}. Give the card it was "
            "trained with, or train anew without --ckpt_path."
        )
    if was != now:
        print(f"note: the checkpoint's normalisation is kept: {before} instead of {after}", file=sys.stderr)
        module.spec = replace(module.spec, normalisation=was)
        module.hparams["spec"] = module.spec.to_dict()


def options_of(config: Any) -> dict[str, Any]:
    """Options of data and trainer that decide what is learned, as plain values, for the checkpoint."""
    given = {key: value for key, value in config.data.items() if key not in PLACES}
    given |= {key: config.trainer.get(key) for key in TRAINER}
    plain = (bool, int, float, str, list, type(None))
    return {key: value if isinstance(value, plain) else str(value) for key, value in given.items()}


def note_differences(content: Mapping[str, Any], hparams: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Says in one line which options are not those of the checkpoint and are used from here on."""
    saved = content["hyper_parameters"]
    both = {key: (_saved(saved, key), hparams[key]) for key, rule in ON_RESUME.items() if rule == USED}
    both |= {key: (was, options[key]) for key, was in content.get("options", {}).items() if key in options}
    differing = [f"{key} {now} instead of {was}" for key, (was, now) in both.items() if was != now]
    if differing:
        print(f"note: resumed with {', '.join(differing)}", file=sys.stderr)

"""Options that were given but change nothing in this training, which a run notes at its start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.models.decoders import OF_BLOCKS
from mlla_seg.models.mlla import SIZES
from mlla_seg.models.own import is_class_path


def ineffective(
    hparams: Mapping[str, Any], defaults: Mapping[str, Any], data: SegmentationDataModule | None
) -> Iterator[str]:
    """Yield a line for each option that differs from its default but has no effect.

    Args:
        hparams: Options of the module.
        defaults: Their defaults.
        data: Data of the training, if it is known.
    """
    given = {name for name, default in defaults.items() if name in hparams and hparams[name] != default}
    if data is not None and data.unlabelled is None:
        for name in sorted({"consistency", "consistency_rampup"} & given):
            yield f"--model.{name} has no effect without --data.unlabelled."
    if is_class_path(hparams["loss"]):
        for name in sorted({"ce_weight", "dice_weight", "class_weights", "squared_dice"} & given):
            yield f"--model.{name} has no effect on a loss of your own."
    if "encoder_lr_factor" in given and hparams["freeze"] == "encoder" and hparams["freeze_steps"] is None:
        yield "--model.encoder_lr_factor has no effect, as the encoder is frozen."
    if "norm_outputs" in given and (hparams["decoder"] in OF_BLOCKS or hparams["encoder"] not in SIZES):
        yield "--model.norm_outputs has no effect: it is for MLLA encoders with decoders of smp."
    if data is not None and data.fold is None and data.folds != signature(type(data)).parameters["folds"].default:
        yield "--data.folds has no effect without --data.fold."

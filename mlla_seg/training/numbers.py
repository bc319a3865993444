"""Numbers among the options of training, and which values of each make sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlla_seg.data.rules import Rule, number, shown, whole
from mlla_seg.errors import InputError

_not_negative = Rule(lambda value: number(value) and value >= 0, "0 or more")
_fraction = Rule(lambda value: number(value) and 0 <= value <= 1, "a fraction from 0 to 1")
MODEL = {
    "lr": _not_negative,
    "encoder_lr_factor": _not_negative,
    "weight_decay": _not_negative,
    "warmup": _fraction,
    "consistency": _not_negative,
    "consistency_rampup": _fraction,
    "eval_batch_size": Rule(whole(1, 2**31), "a whole number from 1"),
}
"""Options of :class:`~mlla_seg.training.module.SegmentationModule`."""
LOSS = {"ce_weight": _not_negative, "dice_weight": _not_negative}
"""Weights of the two terms of the loss."""


def require_numbers(options: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Check options of ``--model``.

    Args:
        options: Values by name.
        rules: The rules of those that are checked.

    Raises:
        InputError: A number is not allowed.
    """
    for name, rule in rules.items():
        if not rule.fits(options[name]):
            raise InputError(f"--model.{name} must be {rule.expected}, got {shown(options[name])}.")


def require_loss_weights(ce_weight: float, dice_weight: float, class_weights: Sequence[float] | None) -> None:
    """Check the weights of a loss, which would otherwise be NaN, always 0, or smaller for worse networks.

    Raises:
        InputError: A weight is negative or not finite, or nothing is left to learn.
    """
    require_numbers({"ce_weight": ce_weight, "dice_weight": dice_weight}, LOSS)
    if not ce_weight and not dice_weight:
        raise InputError("--model.ce_weight and --model.dice_weight are both 0, so there is no loss to learn from.")
    if class_weights is not None and not (all(map(_not_negative.fits, class_weights)) and any(class_weights)):
        raise InputError(f"--model.class_weights must be 0 or more, and one above 0, got {shown(list(class_weights))}.")

"""The loss of a training from scribbles: cross-entropy over the labelled pixels (partial cross-entropy)."""

from __future__ import annotations

from typing import Any

from mlla_seg.errors import InputError
from mlla_seg.models.own import is_class_path
from mlla_seg.progress import note
from mlla_seg.training.losses import LOSSES


def use_cross_entropy_alone(config: Any, say_so: bool) -> None:
    """Set ``dice_weight`` to 0 in the options of a run: overlap within a few strokes says nothing about shapes.

    Args:
        config: Options of ``fit`` with ``data.scribbles``.
        say_so: Whether this process prints notes.

    Raises:
        InputError: No loss would be left.
    """
    model = config.model
    if is_class_path(model.loss):
        if say_so:
            note(f"note: labels are scribbles: all pixels outside them are unknown (255) to {model.loss}.")
        return
    if not model.ce_weight:
        raise InputError("--data.scribbles trains with cross-entropy alone, but --model.ce_weight is 0.")
    if not model.dice_weight:
        return
    if say_so:
        term = LOSSES[model.loss].partition(" and ")[2] if model.loss in LOSSES else model.loss
        note(
            f"note: {term} is left out (dice_weight 0 instead of {model.dice_weight:g}), as labels are scribbles, in "
            "which overlap says nothing about shapes."
        )
    model.dice_weight = 0.0

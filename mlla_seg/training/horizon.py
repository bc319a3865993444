"""Length of a training run in optimiser steps or time, as set by the trainer's options, and the part that is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from mlla_seg.errors import InputError


def position(fit_loop: Mapping[str, Any]) -> tuple[int, int]:
    """Return the epoch at which training goes on, and the number of its batches that are done.

    Args:
        fit_loop: State of Lightning's loop: ``checkpoint["loops"]["fit_loop"]`` or ``trainer.fit_loop.state_dict()``.
    """
    epochs = fit_loop["epoch_progress"]["current"]
    within = epochs["started"] > epochs["processed"]  # otherwise it was saved at the end of an epoch
    return epochs["processed"], fit_loop["epoch_loop.batch_progress"]["current"]["processed"] if within else 0


def total_steps(trainer: Trainer) -> float:
    """Return the number of optimiser steps of the whole training; infinite if only ``max_time`` limits it.

    Raises:
        InputError: The training has no limit.
    """
    total = trainer.estimated_stepping_batches
    if total == math.inf and not limits_time(trainer):
        raise InputError(
            "The training has no end: set --trainer.max_epochs, --trainer.max_steps or --trainer.max_time."
        )
    return total


def limits_time(trainer: Trainer) -> bool:
    """Return whether ``max_time`` is set."""
    return _timer(trainer) is not None


def steps_left(trainer: Trainer) -> float:
    """Return the optimiser steps left after restoring a checkpoint, whatever its batch size was; may be infinite."""
    left, each = math.inf, trainer.accumulate_grad_batches
    if trainer.max_epochs not in (None, -1):
        epochs, batches = position(trainer.fit_loop.state_dict())
        in_epoch = math.ceil(trainer.num_training_batches / each)
        left = (trainer.max_epochs - epochs) * in_epoch - min(math.ceil(batches / each), in_epoch)
    if trainer.max_steps != -1:
        left = min(left, trainer.max_steps - trainer.global_step)
    return max(left, 0)


def time_used(trainer: Trainer) -> float:
    """Return the fraction of ``max_time`` that is used, in 0..1, the same in every process; 0 without ``max_time``.

    In a resumed run the time before the interruption counts too: Lightning's timer saves it.
    """
    timer = _timer(trainer)
    if timer is None:
        return 0.0
    elapsed, remaining = timer.time_elapsed(), timer.time_remaining() or 0.0
    return trainer.strategy.broadcast(min(1.0, elapsed / max(elapsed + remaining, 1e-9)))


def seconds_left(trainer: Trainer) -> float:
    """Return the time left of ``max_time``; infinite without it."""
    timer = _timer(trainer)
    return math.inf if timer is None else timer.time_remaining() or 0.0


def _timer(trainer: Trainer) -> Timer | None:
    """Return the callback that enforces ``max_time``, if any."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by the trainer's connector
    timers = (callback for callback in callbacks if isinstance(callback, Timer))
    return next((timer for timer in timers if timer.time_remaining() is not None), None)

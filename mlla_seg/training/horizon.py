"""When a training ends: after so many steps, or so much time, as Lightning's trainer was told."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from mlla_seg.errors import InputError


def total_steps(trainer: Trainer) -> float:
    """Optimiser steps of a whole training, infinite where only time ends it.

    Raises:
        InputError: Nothing ends it.
    """
    total = trainer.estimated_stepping_batches
    if total == math.inf and not limits_time(trainer):
        raise InputError(
            "Nothing ends the training: set --trainer.max_epochs, --trainer.max_steps or --trainer.max_time."
        )
    return total


def limits_time(trainer: Trainer) -> bool:
    """Whether time may end the training."""
    return _timer(trainer) is not None


def steps_left(trainer: Trainer) -> float:
    """Optimiser steps from the restored state of a checkpoint to the end, whatever its batches were; or infinite."""
    left, each, loop = math.inf, trainer.accumulate_grad_batches, trainer.fit_loop
    if trainer.max_epochs not in (None, -1):
        epochs: Any = loop.epoch_progress.current
        batches = loop.epoch_loop.batch_progress
        progress: Any = batches.current
        # Lightning goes on in an epoch that was left in its middle, by steps, or begins a new one.
        goes_on = not batches.is_last_batch and (loop.restarted_mid_epoch or trainer.max_steps != -1)
        done = progress.processed // each if goes_on else 0
        left = (trainer.max_epochs - epochs.processed) * math.ceil(trainer.num_training_batches / each) - done
    if trainer.max_steps != -1:
        left = min(left, trainer.max_steps - trainer.global_step)
    return max(left, 0)


def time_used(trainer: Trainer) -> float:
    """How much of ``max_time`` is used, 0 to 1, the same in every process; 0 where time does not end the training.

    Of a resumed training the time before counts too, as Lightning's timer remembers it.
    """
    timer = _timer(trainer)
    if timer is None:
        return 0.0
    elapsed, remaining = timer.time_elapsed(), timer.time_remaining() or 0.0
    return trainer.strategy.broadcast(min(1.0, elapsed / max(elapsed + remaining, 1e-9)))


def _timer(trainer: Trainer) -> Timer | None:
    """The callback that ends the training after some time."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by the trainer's connector
    timers = (callback for callback in callbacks if isinstance(callback, Timer))
    return next((timer for timer in timers if timer.time_remaining() is not None), None)

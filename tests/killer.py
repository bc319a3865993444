"""A Lightning callback, given on the command line, that sends its process a signal once, at a point of the training."""

from __future__ import annotations

import os
import signal

from lightning.pytorch import Callback, LightningModule, Trainer


class Kill(Callback):
    """Send a signal when training has made some steps.

    Args:
        name: Name of the signal, such as ``SIGKILL``.
        step: Optimiser steps before.
        at: Hook: ``on_train_batch_end``, ``on_train_batch_start``, ``on_validation_batch_start`` ...
        rank: Process that gets the signal.
    """

    def __init__(self, name: str, step: int, at: str = "on_train_batch_end", rank: int = 0) -> None:
        self.name, self.step, self.rank, self.sent = name, step, rank, False
        setattr(self, at, self._kill)

    def _kill(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        reached = trainer.global_step == self.step and trainer.global_rank == self.rank
        if reached and not trainer.sanity_checking and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.Signals[self.name])

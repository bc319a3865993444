"""Lightning callbacks, given on the command line, that send a signal at a point of the training."""

from __future__ import annotations

import multiprocessing
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


class KillWorkers(Callback):
    """Kill the loader processes when training has made some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            for process in multiprocessing.active_children():
                if process.pid:
                    os.kill(process.pid, signal.SIGKILL)

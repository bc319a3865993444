"""What a run reports: its size at the start, the time left after each epoch, and the curve so far."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from mlla_seg.evaluation import plots
from mlla_seg.models.cost import macs
from mlla_seg.progress import note
from mlla_seg.training.curve import RunLogger
from mlla_seg.training.distributed import shards_weights
from mlla_seg.training.horizon import seconds_left, steps_left

BETWEEN_LINES = 10
"""Fewest seconds between two lines on the time left."""
SHARE = 0.02
"""Largest fraction of the time that is spent on drawing."""


class Announcer(Callback):
    """Prints parameters, multiply-accumulates and steps of a run, then its time left; only the first process does."""

    def __init__(self) -> None:
        self.said = False
        self.started = self.spoke = -math.inf
        self.at_start = 0  # steps of the run before this process
        self.total = math.inf  # steps of the whole run

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.said, self.started, self.at_start = False, time.monotonic(), trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.said or not trainer.is_global_zero:
            return
        self.said = True
        self.total = trainer.global_step + steps_left(trainer)
        length = length_in_words(trainer, self.total)
        if shards_weights(trainer):  # no process has the whole network, to count it
            note(length)
        else:
            note(f"{size_in_words(pl_module.network, batch['image'][:1])}; {length}")  # type: ignore[arg-type]
        if trainer.world_size > 1 or trainer.accumulate_grad_batches > 1:
            note(batch_in_words(trainer, len(batch["image"]), pl_module.hparams["lr"]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now, done = time.monotonic(), trainer.global_step - self.at_start
        if not trainer.is_global_zero or now - self.spoke < BETWEEN_LINES or not done:
            return
        left = min((now - self.started) / done * (self.total - trainer.global_step), seconds_left(trainer))
        if left <= 0 or trainer.should_stop:
            return
        self.spoke = now
        epochs = f"/{trainer.max_epochs}" if trainer.max_epochs not in (None, -1) else ""
        steps = f"/{int(self.total)}" if self.total != math.inf else ""
        at = f"epoch {trainer.current_epoch + 1}{epochs}, step {trainer.global_step}{steps}"
        note(f"{at}, about {duration_in_words(left)} left")


class GrowingCurve(Callback):
    """Draws ``training.png`` anew after each validation; its rows are logged when the callbacks have run.

    It is left out where drawing would take more than ``SHARE`` of the time; the end of training draws it anyway.
    """

    def __init__(self) -> None:
        self.due = False
        self.ready = -math.inf  # time of the next drawing

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.due = self.due or not trainer.sanity_checking

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        began = time.monotonic()
        if not (self.due and trainer.is_global_zero and began >= self.ready):
            return
        self.due = False
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.save()
                metrics = Path(logger.log_dir) / "metrics.csv"
                if metrics.is_file():  # not before the first rows, as in a run that was resumed
                    plots.plot_training(metrics, metrics.with_name("training.png"))
        now = time.monotonic()
        self.ready = now + (now - began) / SHARE


def size_in_words(network: nn.Module, image: torch.Tensor) -> str:
    """Return parameters, those that are frozen, and the multiply-accumulates of an image ``(1, C, *spatial)``."""
    parameters = list(network.parameters())
    frozen = sum(p.numel() for p in parameters if not p.requires_grad)
    training = [(module, module.training) for module in network.modules()]
    try:
        count = macs(network.eval(), image)
    finally:
        for module, mode in training:
            module.training = mode
    kind, size = "volume" if image.dim() == 5 else "image", " x ".join(map(str, image.shape[2:]))
    return (
        f"{sum(p.numel() for p in parameters) / 1e6:.1f} M parameters"
        + (f", of which {frozen / 1e6:.1f} M are frozen" if frozen else "")
        + f"; {count / 1e9:.2f} G multiply-accumulates per training {kind} of {size}"
    )


def length_in_words(trainer: Trainer, steps: float) -> str:
    """Return steps, epochs and time that the options ask for, and the step at which a run is resumed."""
    words = [] if steps == math.inf else [f"{int(steps)} steps"]
    if trainer.max_epochs not in (None, -1):
        words.append(f"{trainer.max_epochs} epochs of {math.ceil(trainer.num_training_batches)} batches")
    if (left := seconds_left(trainer)) != math.inf:
        words.append(f"{duration_in_words(left)} left")
    begun = f", resumed after {trainer.global_step}" if trainer.global_step else ""
    return "at most " * (len(words) > 1) + ", ".join(words) + begun


def batch_in_words(trainer: Trainer, samples: int, lr: float) -> str:
    """Return the batch of an optimiser step, with ``samples`` in each process and batch, and the learning rate."""
    world, batches = trainer.world_size, trainer.accumulate_grad_batches
    among = f" on each of {world} processes" if world > 1 else ""
    times = f", over {batches} batches" if batches > 1 else ""
    return (
        f"Each optimiser step sees {samples * world * batches} samples: {samples}{among}{times}. The learning rate is "
        f"--model.lr {lr:g} whatever their number."
    )


def duration_in_words(seconds: float) -> str:
    """Return a duration as ``2 h 10 min``, ``10 min`` or ``40 s``."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"

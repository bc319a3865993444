"""Callbacks that save ``best.ckpt`` and ``last.ckpt``, the latter also in the middle of an epoch."""

from __future__ import annotations

import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging

from mlla_seg.errors import InputError
from mlla_seg.locks import release
from mlla_seg.models.checkpoint import read_content
from mlla_seg.progress import note
from mlla_seg.training.curve import Curve, RunLogger
from mlla_seg.training.horizon import position
from mlla_seg.training.loggers import runs_elsewhere
from mlla_seg.training.run_folder import hold
from mlla_seg.training.scoring import single_slices
from mlla_seg.training.stopping import StopSignals, requeue, resume_command

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
"""Paths in the state of Lightning's ModelCheckpoint."""
NOT_VALIDATED = {
    "total": {"ready": 1, "started": 1, "processed": 0, "completed": 0},
    "current": {"ready": 0, "started": 0, "processed": 0, "completed": 0},
    "is_last_batch": False,
}
"""Progress of Lightning's validation loop by which a resumed run validates before it trains on."""


class _Checkpoint(ModelCheckpoint):
    def __init__(self, filename: str, **options: Any) -> None:
        super().__init__(filename=filename, auto_insert_metric_name=False, enable_version_counter=False, **options)

    @property
    def state_key(self) -> str:
        """Key of Lightning's ModelCheckpoint, under which version 0.1 saved this callback's state."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__)

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's state with names of files in place of paths, which tell who trained where."""
        state = super().state_dict()
        state |= {key: Path(state[key] or "").name for key in PATHS}
        state["best_k_models"] = {Path(path).name: score for path, score in state["best_k_models"].items()}
        return {**state, "dirpath": ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state if this run continues the one that saved it, whose files then lie in its folder."""
        folder, state = Path(str(self.dirpath)), dict(state_dict)
        if state["dirpath"] == "":
            if not (folder / state["best_model_path"]).is_file():
                return
            state |= {key: state[key] and str(folder / state[key]) for key in PATHS}
            state["best_k_models"] = {str(folder / name): score for name, score in state["best_k_models"].items()}
            state["dirpath"] = self.dirpath
        super().load_state_dict(state)


class BestCheckpoint(_Checkpoint):
    """Checkpoint of the best epoch.

    It must come before :class:`LastCheckpoint`: a run killed between the two repeats the epoch and finds the same best.

    Args:
        monitor: Name of the logged value.
        mode: ``max`` if the largest value is the best, otherwise ``min``.
    """

    def __init__(self, monitor: str = "val/dice", mode: str = "max") -> None:
        super().__init__("best", monitor=monitor, mode=mode)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        path, score = Path(self.format_checkpoint_name({})), None
        if trainer.ckpt_path and trainer.is_global_zero and path.is_file():
            score = self._score_in(path)
        score = trainer.strategy.broadcast(score)
        if score is not None and (self.best_model_score is None or self._better(score, self.best_model_score)):
            self.best_model_score = self.kth_value = torch.tensor(score)
            self.best_model_path = self.kth_best_model_path = str(path)
            self.best_k_models = {str(path): self.best_model_score}

    def _better(self, score: float, other: Any) -> bool:
        return bool(score > other if self.mode == "max" else score < other)

    def _score_in(self, path: Path) -> float | None:
        """Return the score of the file on the disk, which the resumed checkpoint may not know."""
        try:
            state = read_content(path).get("callbacks", {}).get(self.state_key, {})
        except InputError as error:
            note(f"note: {error} The next epoch replaces it.")
            return None
        score = state.get("best_model_score")
        return None if score is None else float(score)


class BestSegmenter(BestCheckpoint):
    """Checkpoint of the best epoch: by pooled IoU if all validation cases are single slices, otherwise by mean Dice."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and single_slices(trainer.datamodule.val_set.cases):  # type: ignore[attr-defined]
            self.monitor = "val/pooled_iou"
        super().setup(trainer, pl_module, stage)


class LastCheckpoint(_Checkpoint):
    """Checkpoint of the latest state: after every epoch, every few minutes, and when training is asked to stop.

    Args:
        minutes: Time between checkpoints within an epoch.
        whole_epochs: Save at the end of each epoch, with or without validation; otherwise after each validation.
    """

    def __init__(self, minutes: float, whole_epochs: bool) -> None:
        super().__init__("last", save_on_train_epoch_end=whole_epochs or None)
        self.minutes = minutes
        self.stop = StopSignals()
        self.lock: FileLock | None = None
        self.validating = False  # saved before or within a validation, which a resumed run starts anew

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.lock = hold(Path(str(self.dirpath)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        start_next_epoch(trainer)
        asked = trainer.received_sigterm
        self.stop.watch()
        if asked:
            self.stop.received = signal.SIGTERM
        self.saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = time.monotonic() - self.saved_at >= 60 * self.minutes
        if within_epoch(trainer, batch_idx) and agreed(trainer, due or self.stop.received is not None):
            self.save(trainer)
            if agreed(trainer, self.stop.received is not None):
                self.leave(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave_validation(trainer, pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        averaging = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]  # type: ignore[attr-defined]
        self._leave_validation(trainer, pl_module, averaging)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.saved_at = time.monotonic()
        if not finishing(trainer) and agreed(trainer, self.stop.received is not None):
            self.leave(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self.stop.restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._let_go()
        if isinstance(exception, KeyboardInterrupt):  # before the first step; Lightning would exit with status 1
            raise SystemExit(128 + signal.SIGINT) from None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._let_go()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        for curve in curves_of(trainer):
            checkpoint["logged_rows"] = len(curve.metrics)
        checkpoint["logged_as"] = runs_elsewhere(trainer.loggers)
        for logger in trainer.loggers:
            logger.save()
        if self.validating:
            checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = NOT_VALIDATED

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        for curve in curves_of(trainer):
            curve.keep(checkpoint.get("logged_rows", sys.maxsize))  # versions before 0.2 do not say

    def save(self, trainer: Trainer) -> None:
        """Write ``last.ckpt``; a collective call."""
        trainer.save_checkpoint(self.format_checkpoint_name({}))
        self.saved_at = time.monotonic()

    def leave(self, trainer: Trainer) -> None:
        """End the process with the status of a process that was stopped by the signal."""
        if not trainer.is_global_zero:
            raise SystemExit(0)  # otherwise Lightning would kill the others, which may still be saving
        signum = self.stop.received or signal.SIGTERM  # another process may have received it
        path = self.format_checkpoint_name({})
        name = signal.Signals(signum).name
        note(f"Stopped by {name} after step {trainer.global_step}, saved as {path}")
        if self.stop.requeues and signum == signal.SIGUSR1 and requeue():
            note("SLURM will start this job again, and it will resume.")
        else:
            note(f"To resume: {resume_command(path)}")
        raise SystemExit(128 + signum)

    def _leave_validation(self, trainer: Trainer, pl_module: LightningModule, averaging: Any = ()) -> None:
        if trainer.sanity_checking or finishing(trainer) or not agreed(trainer, self.stop.received is not None):
            return
        for callback in averaging:  # validation swaps the weights of the last step for the average
            callback.on_validation_epoch_end(trainer, pl_module)
        self.validating = True
        self.save(trainer)
        self.leave(trainer)

    def _let_go(self) -> None:
        self.stop.restore()
        if self.lock is not None:
            release(self.lock)
            self.lock = None


def curves_of(trainer: Trainer) -> list[Curve]:
    """Return the open ``metrics.csv`` of this process; only the first process has one."""
    written = [logger.experiment for logger in trainer.loggers if isinstance(logger, RunLogger)]
    return [curve for curve in written if isinstance(curve, Curve)]


def agreed(trainer: Trainer, wish: bool) -> bool:
    """Return whether any process wishes it; a collective call, so that all stop or save after the same step."""
    return trainer.strategy.reduce_boolean_decision(wish, all=False)


def finishing(trainer: Trainer) -> bool:
    """Return whether training is over but for the validation of the final weights."""
    epochs, _ = position(trainer.fit_loop.state_dict())
    return trainer.should_stop or trainer.global_step == trainer.max_steps or epochs == trainer.max_epochs


def within_epoch(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether training can resume after this batch: gradients are used up and no validation follows.

    A validation, or the end of the epoch, saves by itself.
    """
    accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches
    if finishing(trainer) or trainer.fast_dev_run or accumulating:  # type: ignore[attr-defined]
        return False
    every = trainer.val_check_batch or math.inf
    count = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return batch_idx + 1 < trainer.num_training_batches and (every == math.inf or (count + 1) % every > 0)


def start_next_epoch(trainer: Trainer) -> None:
    """Go on with the next epoch after a checkpoint of an epoch's end, also in a training of ``max_steps``.

    With ``max_steps`` Lightning would repeat that end, and count the epoch twice.
    """
    loop = trainer.fit_loop
    if loop.restarted_on_epoch_end:
        loop.epoch_progress.increment_completed()
        loop.reset_restart_stage()
        loop.epoch_loop.restarting = False
    loop.epoch_loop.val_loop.batch_progress.reset()

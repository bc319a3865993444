"""What the commands with a trainer share: durable checkpoints, resuming, logging, and one-line errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO, LayerSync

from mlla_seg.errors import InputError
from mlla_seg.evaluation import plots
from mlla_seg.models.checkpoint import read_content
from mlla_seg.progress import note, say
from mlla_seg.training.announce import Announcer, GrowingCurve
from mlla_seg.training.checkpoints import BestCheckpoint, LastCheckpoint
from mlla_seg.training.class_options import Refusals
from mlla_seg.training.distributed import convert_batch_norm, require_supported
from mlla_seg.training.failures import one_line
from mlla_seg.training.loggers import DEFAULT, arrange, log_to, run_folder
from mlla_seg.training.monitors import require_other_checkpoints
from mlla_seg.training.run_folder import remove_killed
from mlla_seg.training.saving import DurableCheckpointIO
from mlla_seg.training.stopping import was_requeued
from mlla_seg.training.versions import continued_version

# Lightning warnings about choices that are deliberate here.
QUIET = (
    ".*does not have many workers.*",
    ".*You passed in a `val_dataloader` but have no `validation_step`.*",  # a pretraining may have nothing to validate
    ".*is smaller than the logging interval.*",
    ".*recommended to use .*sync_dist=True.*",
    ".*Trying to infer the `batch_size`.*",
    ".*pin_memory.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
    ".*Total length of `list` across ranks is zero.*",
    ".*The dirpath has changed from.*",
    ".*args parameter is intended to run from within Python.*",  # expanded: shipped configs and recipes
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*`IterableDataset` has `__len__` defined.*",  # timm's readers divide it among workers
    ".*Grad strides do not match bucket view strides.*",  # of tensors with an axis of one, for which they mean nothing
    ".*ended before the epoch ended and your dataloader is.*",  # the sampler goes on where it was, see data/batches.py
)
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Variables by which torchrun, Lightning and srun number processes."""


class BatchNormOverProcesses(LayerSync):
    """Lightning plugin that synchronises batch norm across processes, also on CPU."""

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        return convert_batch_norm(model)

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        return model  # synchronisation changes neither evaluation nor checkpoints


class RunCLI(LightningCLI):
    """LightningCLI of a command that trains or scores; subclasses say how runs are named and checkpoints are found."""

    version: int | str | None = None
    """Version of the run that is continued."""

    def run_name(self) -> str:
        """Return the name of runs that the config does not name."""
        raise NotImplementedError

    def find_start(self, name: str) -> Path | None:
        """Return the checkpoint of this name to resume from; ``last`` may be absent, then the result is none."""
        raise NotImplementedError

    def best_checkpoint(self) -> BestCheckpoint | None:
        """Return the callback that saves the best epoch, if there is something to validate."""
        raise NotImplementedError

    def check_callbacks(self, callbacks: Sequence[Callback]) -> None:
        """Check what the callbacks of the options monitor, before training."""

    @property
    def given(self) -> Any:
        """Options of the command."""
        return self.config if self.subcommand is None else self.config[self.subcommand]

    @property
    def trains(self) -> bool:
        """Whether the command trains."""
        return self.subcommand in (None, "fit")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"trainer.logger": DEFAULT})
        parser.add_argument(
            "--checkpoint_minutes", type=float, default=10.0, help="minutes between checkpoints within an epoch"
        )
        keep_whole_numbers(parser)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let the checkpoint's settings override the command line."""

    def before_instantiate_classes(self) -> None:
        if self.given.checkpoint_minutes < 0:
            raise InputError(f"--checkpoint_minutes must be 0 or more, got {self.given.checkpoint_minutes}.")
        arrange(self.given, self.run_name)

    def resume(self) -> None:
        """Find the checkpoint to resume from, if any; ``last`` starts anew where there is none yet."""
        folder = run_folder(self.given)
        if is_first_process():
            remove_killed(folder)
        name = self.given.get("ckpt_path") or ("last" if was_requeued() else None)
        if name is None:
            return
        path = self.find_start(name)
        self.given["ckpt_path"] = path and str(path)
        if path is None:
            if is_first_process():
                note(f"note: no checkpoint below {folder} yet, so training starts anew.")
            return
        self.version = continued_version(path, folder)
        if self.version is not None:
            log_to(self.version, read_content(path).get("logged_as", []), self.given)

    def instantiate_classes(self) -> None:
        refusals = Refusals(self.parser)
        try:
            super().instantiate_classes()
        except ValueError as error:
            if refusals.reason is None:
                raise
            raise InputError(refusals.reason) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        if config.get("accumulate_grad_batches") == 0:  # Lightning divides by it
            raise InputError("--trainer.accumulate_grad_batches must be 1 or more, got 0.")
        callbacks = listed(config.get("callbacks"))
        if self.trains:
            ours = self._checkpointing()
            require_other_checkpoints(callbacks, ours)
            self.check_callbacks(callbacks)
            callbacks += [*ours, LearningRateMonitor(), GrowingCurve(), Announcer()]
        else:  # the checkpoint's weights are already averaged
            callbacks = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]
        plugins = [*listed(config.get("plugins")), BatchNormOverProcesses()]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(DurableCheckpointIO())
        try:
            trainer = super().instantiate_trainer(callbacks=callbacks, plugins=plugins, **kwargs)
        except InputError:
            raise
        except Exception as error:  # Lightning refuses options, such as a missing GPU, with errors of many types
            raise InputError(one_line(error)) from error
        if self.trains:
            require_supported(trainer, any(isinstance(callback, WeightAveraging) for callback in callbacks))
        return trainer

    def _checkpointing(self) -> list[ModelCheckpoint]:
        """Return callbacks that save the best epoch, if there is a validation split, and the latest state.

        There are two callbacks because one with ``save_last`` skips epochs that are not among the best.
        """
        whole_epochs = self._get(self.config_init, "trainer").get("val_check_interval") in (None, 1.0)
        best = self.best_checkpoint()
        callbacks: list[ModelCheckpoint] = [best] if best else []
        callbacks.append(LastCheckpoint(self.given.checkpoint_minutes, whole_epochs))
        if self.version is not None:  # set afterwards: the constructor would make it absolute, which Lightning notices
            for callback in callbacks:
                callback.dirpath = str(Path(self.given.ckpt_path).parent)
        return callbacks

    def report_training(self) -> None:
        """Say where the run and its checkpoints are; a collective call."""
        folder = Path(self.trainer.log_dir or ".")  # log_dir is a collective call: every process must make it
        if not self.trainer.is_global_zero:
            return
        say(f"\nRun folder:     {folder}")
        saving = [callback for callback in self.trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        folders = dict.fromkeys(Path(str(callback.dirpath)) for callback in saving)
        for path in (path for place in folders for path in sorted(place.glob("*.ckpt"))):
            say(f"Checkpoint:     {path}")
        metrics = folder / "metrics.csv"
        if metrics.is_file():
            plots.plot_training(metrics, folder / "training.png")
            say(f"Metrics:        {metrics}\nTraining curve: {folder / 'training.png'}")


def keep_whole_numbers(parser: LightningArgumentParser) -> None:
    """Let ``--trainer.limit_val_batches 1`` be one batch; 1.0 are all of them.

    Lightning's types put int before float, but typing returns the first of all unions that it takes for equal, and some
    other package has made one in which float comes first.
    """
    for action in parser._actions:
        if getattr(action, "_typehint", None) == int | float | None:
            action._typehint = int | float | None  # type: ignore[attr-defined]


def listed(given: Any) -> list[Any]:
    """Return an option that may be absent, one value or several as a list."""
    return [*given] if isinstance(given, list) else [] if given is None else [given]


def is_first_process() -> bool:
    """Return whether this process prints notes; before the trainer exists, which knows the ranks."""
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"


def _is_not_advertising(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def run_quietly(build: Callable[..., LightningCLI], argv: Sequence[str], *classes: type, **options: Any) -> Any:
    """Build a CLI from command-line arguments, without the warnings about deliberate choices, and return it."""
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    torch.set_float32_matmul_precision("high")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_not_advertising)
    try:
        return build(
            *classes,
            args=None if list(argv) == sys.argv[1:] else list(argv),
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"enable_model_summary": False},  # see announce.py; its FLOPs would be 0
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            **options,
        )
    except ValueError as error:  # jsonargparse wraps errors raised while the data are read
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise

"""The commands fit, validate and test: LightningCLI with this project's module, data module and defaults."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO, LayerSync

from mlla_seg._version import __version__
from mlla_seg.data.datamodule import SegmentationDataModule, position
from mlla_seg.data.dataset import CaseDataset
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.postprocessing import in_words
from mlla_seg.errors import InputError
from mlla_seg.evaluation import plots
from mlla_seg.evaluation.report import Scored, score_table, write_results
from mlla_seg.models.checkpoint import fitting_weights, load_members, read_checkpoint, require_mirrored
from mlla_seg.models.own import import_encoder, is_class_path
from mlla_seg.places import path_id, shareable, shareable_lines
from mlla_seg.progress import note, say
from mlla_seg.texts import read_text
from mlla_seg.training.announce import Announcer, GrowingCurve
from mlla_seg.training.checkpoints import BestCheckpoint, LastCheckpoint
from mlla_seg.training.curve import RunLogger
from mlla_seg.training.distributed import convert_batch_norm
from mlla_seg.training.failures import one_line, told_in_a_line
from mlla_seg.training.module import SegmentationModule
from mlla_seg.training.postprocessing import choose_postprocessing, prepare_postprocessing
from mlla_seg.training.resume import (
    RUNS,
    continued_version,
    find_checkpoint,
    log_to,
    name_runs,
    note_differences,
    options_of,
    require_same_view,
    require_something_left,
    require_unseen,
    resume_spec,
    run_folder,
)
from mlla_seg.training.run_folder import remove_killed
from mlla_seg.training.saving import DurableCheckpointIO
from mlla_seg.training.scoring import Scoring
from mlla_seg.training.stopping import was_requeued

# Lightning warnings about choices that are deliberate here.
QUIET = (
    ".*does not have many workers.*",
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
    ".*ended before the epoch ended and your dataloader is.*",  # the sampler goes on where it was, see data/batches.py
)


class BatchNormOverProcesses(LayerSync):
    """Lightning plugin that synchronises batch norm across processes, also on CPU."""

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        return convert_batch_norm(model)

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        return model  # synchronisation changes neither evaluation nor checkpoints


class SegmentationCLI(LightningCLI):
    """LightningCLI that passes the data spec of the card to the module."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        commands = LightningCLI.subcommands()
        return {name: commands[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data", "model.spec", compute_fn=lambda data: data.spec.to_dict(), apply_on="instantiate")
        parser.add_class_arguments(Scoring)
        parser.add_argument(
            "--checkpoint_minutes", type=float, default=10.0, help="minutes between checkpoints within an epoch of fit"
        )
        parser.add_argument("--recipe", type=str | None, default=None, help=SUPPRESS)  # a key of configs, see cli.py

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let the checkpoint's settings override the command line."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.checkpoint_minutes < 0:
            raise InputError(f"--checkpoint_minutes must be 0 or more, got {config.checkpoint_minutes}.")
        if config.choose_postprocessing is not None and self.subcommand != "validate":
            raise InputError(
                f"--choose_postprocessing is for validate, as nothing else may choose: not {self.subcommand}."
            )
        name_runs(config)
        if is_class_path(config.model.encoder):
            import_encoder(config.model.encoder)
        self.version: int | str | None = None  # of the run that is continued
        if self.subcommand == "fit":
            self._find_start(config)
        elif config.get("ckpt_path"):
            config["ckpt_path"] = str(find_checkpoint(config["ckpt_path"], config))
        else:
            raise InputError(
                f"{self.subcommand} needs --ckpt_path: best, last or the path of a .ckpt file written by fit."
            )
        if self.subcommand != "fit":
            config["verbose"] = False  # the table printed at the end is more detailed

    def _find_start(self, config: Any) -> None:
        """Find the checkpoint to resume from, if any; ``last`` starts anew where there is none yet."""
        if not config.data.root:
            return  # the data module says so
        folder = run_folder(config)
        if is_first_process():
            remove_killed(folder)
        name = config.get("ckpt_path") or ("last" if was_requeued() else None)
        if name is None:
            return
        path = find_checkpoint(name, config, to_train=True)
        config["ckpt_path"] = path and str(path)
        if path is None:
            if is_first_process():
                note(f"note: no checkpoint below {folder} yet, so training starts anew.")
            return
        self.version = continued_version(path, config)
        if self.version is not None:
            log_to(self.version, config)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:  # jsonargparse wraps what a class of the config raises
            cause: BaseException | None = error
            while cause and not isinstance(cause, (ModuleNotFoundError, InputError)):
                cause = cause.__cause__ or cause.__context__
            if not isinstance(cause, ModuleNotFoundError):
                raise
            raise InputError(f"A class that the options name needs another package. {cause}".splitlines()[0]) from error

    def after_instantiate_classes(self) -> None:
        """Configure the module's scoring and check the data.

        Runs before other processes are started, so that an error in the data is reported once.
        """
        config = self.config[self.subcommand]
        self.model.scoring = Scoring(**{field.name: config[field.name] for field in fields(Scoring)})
        if path := config.get("ckpt_path"):
            content = read_checkpoint(path)
            fitting_weights(path, content, self.model.network)
            splits = self.datamodule.splits
            scored = splits.test if self.subcommand == "test" else splits.val
            for name in (path, *config.members):
                if Path(name).is_file():
                    require_unseen(name, read_checkpoint(name), scored)
            if self.subcommand == "fit":
                require_something_left(path, content, config.trainer)
                self.datamodule.start = position(content["loops"]["fit_loop"])  # FSDP makes the loader before it loads
                resume_spec(path, content["hyper_parameters"]["spec"], self.model)
                self.model.starts_from = None  # the checkpoint's weights would replace them
                if is_first_process():
                    note_differences(content, self.model.hparams, options_of(config))
            else:
                require_same_view(path, content["hyper_parameters"]["spec"], self.datamodule.spec)
                if config.tta:
                    require_mirrored(path, DataSpec.from_dict(content["hyper_parameters"]["spec"], str(path)))
                prepare_postprocessing(content, self.model, self.datamodule, str(self.subcommand), self.trainer)
        self.model.options = options_of(config)
        if config.members:
            self.model.members = load_members([path, *config.members])[1:]
        if is_first_process():
            splits = self.datamodule.splits
            counts = f"{len(splits.train)} training, {len(splits.val)} validation and {len(splits.test)} test cases"
            say(f"{self.datamodule.card.title}: {counts}")
            if config.evaluation == "transunet" and self.datamodule.crop is not None:
                height, width = self.model.published_size
                note(
                    f"note: the TransUNet evaluation resizes slices to {height} x {width}, but this network is trained "
                    "on crops at their original scale. To compare with papers train with --data.crop null "
                    f"--data.resize [{height},{width}]."
                )
            self.datamodule.prepare_data()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand]["trainer"]
        if config.get("accumulate_grad_batches") == 0:  # Lightning divides by it
            raise InputError("--trainer.accumulate_grad_batches must be 1 or more, got 0.")
        callbacks = [*(config.get("callbacks") or [])]
        if self.subcommand == "fit":
            callbacks += self._checkpointing()
            if config.get("logger") is not False:
                callbacks += [LearningRateMonitor(), GrowingCurve()]
            callbacks.append(Announcer())
        else:  # the checkpoint's weights are already averaged
            callbacks = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]
        given = config.get("plugins") or []
        plugins = [*(given if isinstance(given, list) else [given]), BatchNormOverProcesses()]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(DurableCheckpointIO())
        if config.get("logger") in (None, True):
            kwargs["logger"] = RunLogger(RUNS, name=self.datamodule.card.name, version=self.version)
        try:
            return super().instantiate_trainer(callbacks=callbacks, plugins=plugins, **kwargs)
        except InputError:
            raise
        except Exception as error:  # Lightning refuses options, such as a missing GPU, with errors of many types
            raise InputError(one_line(error)) from error

    def _checkpointing(self) -> list[ModelCheckpoint]:
        """Return callbacks that save the best epoch, if there is a validation split, and the latest state.

        There are two callbacks because one with ``save_last`` skips epochs that are not among the best.
        """
        config = self.config_init[self.subcommand]
        whole_epochs = config["trainer"].get("val_check_interval") in (None, 1.0)
        callbacks: list[ModelCheckpoint] = [BestCheckpoint()] if self.datamodule.splits.val else []
        callbacks.append(LastCheckpoint(config["checkpoint_minutes"], whole_epochs))
        if self.version is not None:  # set afterwards: the constructor would make it absolute, which Lightning notices
            for callback in callbacks:
                callback.dirpath = str(Path(self.config[self.subcommand].ckpt_path).parent)
        return callbacks

    def _run_subcommand(self, subcommand: str) -> None:
        config = self.config[self.subcommand]
        with told_in_a_line({**config.data, **config.model}):
            super()._run_subcommand(subcommand)

    def after_fit(self) -> None:
        folder = Path(self.trainer.log_dir or ".")  # log_dir is a collective call: every process must make it
        if self.trainer.is_global_zero:
            self._report_training(folder)

    def after_validate(self) -> None:
        self._report_scores("val", self.datamodule.val_set)
        if self.model.candidates is not None:
            choose_postprocessing(self.model, self.datamodule, self.config.validate.ckpt_path)

    def after_test(self) -> None:
        self._report_scores("test", self.datamodule.test_set)

    def _report_scores(self, split: str, cases: CaseDataset) -> None:
        folder = Path(self.trainer.log_dir or ".")  # log_dir is a collective call: every process must make it
        if not self.trainer.is_global_zero:
            return
        config = self.config[self.subcommand]
        splits, evaluation = self.datamodule.splits, self.model.evaluation
        known = {case.name: case for case in getattr(splits, split)}
        scored_cases = [known[name] for name in evaluation.cases]
        patients, facts = [case.patient for case in scored_cases], [case.facts for case in scored_cases]
        evaluation = replace(evaluation, patients=patients, facts=facts)
        say("\n" + score_table(evaluation))
        if self.datamodule.card.layout.test_mask:
            say(f"Masks: {', '.join(folders_of_masks(self.datamodule, split))}")
        about = {
            "title": self.datamodule.card.title,
            "card": self.datamodule.card.name,
            "background": self.datamodule.card.background,
            "split": split,
            "masks": ", ".join(folders_of_masks(self.datamodule, split)),
            "fold": self.datamodule.fold,
            "folds": self.datamodule.number_of_folds,
            "checkpoint": shareable(config.ckpt_path),
            "checkpoint id": path_id(config.ckpt_path),
            **({"excluded": splits.excluded} if splits.excluded else {}),
            "ensemble with": ", ".join(map(shareable, config.members)) or "none",
            "test-time augmentation": config.tta,
            "post-processing": in_words(self.model.postprocessing, self.model.spec.class_names) or "none",
            **({"transunet at": list(self.model.published_size)} if config.evaluation == "transunet" else {}),
            "version": __version__,
        }
        saved = folder / "config.yaml"  # absent without a logger
        text = shareable_lines(read_text(saved)) if saved.is_file() else ""
        module = self.model.eval()  # Lightning has switched it back to training mode
        scored = Scored(evaluation, module.spec, cases, module.predict_case, module.predict_slice)
        files = write_results(folder, scored, split, about, text)
        say("\n" + "\n".join(f"{path.name:<13} {path}" for path in files))

    def _report_training(self, folder: Path) -> None:
        say(f"\nRun folder:     {folder}")
        checkpointing = self.trainer.checkpoint_callback
        assert isinstance(checkpointing, ModelCheckpoint)
        for path in sorted(Path(str(checkpointing.dirpath)).glob("*.ckpt")):
            say(f"Checkpoint:     {path}")
        metrics = folder / "metrics.csv"
        if metrics.is_file():
            plots.plot_training(metrics, folder / "training.png")
            say(f"Metrics:        {metrics}\nTraining curve: {folder / 'training.png'}")


def folders_of_masks(data: SegmentationDataModule, split: str) -> list[str]:
    """Return the folders, relative to the root, of the masks that a split is scored against.

    Potsdam and Vaihingen, for example, have masks with and without boundaries, which give different scores.
    """
    cases = getattr(data.splits, split)
    return sorted({path.parent.relative_to(data.root).as_posix() for case in cases for path in case.masks})


def is_first_process() -> bool:
    """Return whether this process prints notes; before the trainer exists, which knows the ranks."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _is_not_advertising(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def run(argv: Sequence[str]) -> None:
    """Run ``fit``, ``validate`` or ``test`` with its options."""
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    torch.set_float32_matmul_precision("high")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_not_advertising)
    try:
        SegmentationCLI(
            SegmentationModule,
            SegmentationDataModule,
            args=None if list(argv) == sys.argv[1:] else list(argv),
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={
                "exit_on_error": False,
                **{name: {"exit_on_error": False} for name in SegmentationCLI.subcommands()},
            },
        )
    except ValueError as error:  # jsonargparse wraps errors raised while the data are read
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise

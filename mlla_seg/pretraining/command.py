"""The command pretrain: LightningCLI for the module and data module that a config names by ``class_path``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from mlla_seg.errors import InputError, program
from mlla_seg.models.checkpoint import PRETRAINING_KEY, fitting_weights, read_content
from mlla_seg.places import shareable
from mlla_seg.pretraining.parts import PretrainingData, PretrainingModule
from mlla_seg.progress import note, say
from mlla_seg.training.checkpoints import BestCheckpoint
from mlla_seg.training.failures import told_in_a_line
from mlla_seg.training.horizon import position
from mlla_seg.training.loggers import run_folder, share_version
from mlla_seg.training.run_cli import RunCLI, is_first_process, run_quietly
from mlla_seg.training.versions import newest, require_something_left

PLACES = ("root", "num_workers", "cache_dir", "verify")
"""Options that affect where and how images are read; all others affect training."""
TRAINER = (
    *("max_epochs", "max_steps", "max_time", "precision", "accumulate_grad_batches", "limit_train_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm"),
)
"""Trainer options that affect training."""
FIXED = ("encoder", "mixer", "block", "optimizer")
"""Options that a resumed run cannot change, where a module has them."""


class PretrainingCLI(RunCLI):
    """LightningCLI without subcommands, in which the config chooses what is trained on what."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.link_arguments(
            "data", "model.init_args.spec", compute_fn=lambda data: data.spec.to_dict(), apply_on="instantiate"
        )
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="last, or a .ckpt to resume from")

    def run_name(self) -> str:
        return "pretrain"

    def find_start(self, name: str) -> Path | None:
        if name != "last":
            return Path(name)
        folder = run_folder(self.given)
        return newest(name, folder, lambda content: True, read_pretraining)

    def best_checkpoint(self) -> BestCheckpoint | None:
        return BestCheckpoint(*self.model.best_by) if self.datamodule.validates else None

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        self.resume()

    def after_instantiate_classes(self) -> None:
        """Check the checkpoint to resume from; before other processes start, so that an error is reported once."""
        self.model.options = options_of(self.given)
        if path := self.given.get("ckpt_path"):
            content = read_pretraining(path)
            require_same_training(path, content, self.model)
            fitting_weights(path, content, self.model.network)
            require_something_left(path, content, self.given.trainer)
            self.datamodule.start = position(content["loops"]["fit_loop"])
            if is_first_process():
                note_differences(content, self.model)
        if is_first_process():
            say(self.datamodule.in_words())

    def train(self) -> None:
        """Train, then say where the results are and how to use them."""
        share_version(self.trainer.loggers)
        with told_in_a_line({**self.given.data.init_args, **self.given.model.init_args}):
            self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.given.get("ckpt_path"))
        self.report_training()
        if self.trainer.is_global_zero and self.trainer.checkpoint_callback:
            path = self.trainer.checkpoint_callback.format_checkpoint_name({})  # type: ignore[attr-defined]
            say(f"To use it:      {program()} fit --config ... --model.pretrained {path}")


def read_pretraining(path: str | Path) -> dict[str, Any]:
    """Read a ``.ckpt`` written by ``pretrain``.

    Raises:
        InputError: See :func:`~mlla_seg.models.checkpoint.read_content`; or it was written by ``fit``.
    """
    content = read_content(path)
    if not isinstance(content.get(PRETRAINING_KEY), Mapping):
        raise InputError(f"{path}: is a checkpoint of fit, not of pretrain.")
    return content


def require_same_training(path: str | Path, content: Mapping[str, Any], model: PretrainingModule) -> None:
    """Check that a checkpoint is of the same pretraining method, network and data.

    Raises:
        InputError: It differs in what the weights or the state of the optimiser depend on.
    """
    if (was := content[PRETRAINING_KEY]["kind"]) != model.kind:
        raise InputError(f"{path}: is of the pretraining {was}, the config is of {model.kind}.")
    saved, now = content["hyper_parameters"], model.hparams
    both = {key: (saved.get(key), now[key]) for key in FIXED if key in now}
    both |= {key: (saved["spec"].get(key), value) for key, value in now["spec"].items()}
    for key, (then, value) in both.items():
        if then != value:
            raise InputError(f"{path}: was trained with {key} {_short(then)}, the config gives {_short(value)}.")


def options_of(given: Any) -> dict[str, Any]:
    """Return the data and trainer options that affect training, as plain values for the checkpoint."""
    values = {key: value for key, value in given.data.init_args.items() if key not in PLACES}
    if values.get("exclude"):  # names of patients stay out of checkpoints
        values["exclude"] = f"{len(values['exclude'])} names"
    values |= {key: given.trainer.get(key) for key in TRAINER}
    plain = (bool, int, float, list, type(None))
    return {key: value if isinstance(value, plain) else shareable(str(value)) for key, value in values.items()}


def note_differences(content: Mapping[str, Any], model: PretrainingModule) -> None:
    """Print a note of all options that differ from the checkpoint's and are used from now on."""
    saved = {**content["hyper_parameters"], **content.get("options", {})}
    now = {**model.hparams, **model.options}
    differing = [f"{key} {now[key]} instead of {saved[key]}" for key in now if key in saved and now[key] != saved[key]]
    if differing:
        note(f"note: resumed with {', '.join(differing)}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def run(argv: Sequence[str]) -> None:
    """Run ``pretrain`` with its options."""
    command = run_quietly(
        PretrainingCLI,
        argv,
        PretrainingModule,
        PretrainingData,
        subclass_mode_model=True,
        subclass_mode_data=True,
        run=False,
        parser_kwargs={"exit_on_error": False, "prog": f"{program()} pretrain"},
    )
    command.train()

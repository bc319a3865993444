"""The commands fit, validate and test: LightningCLI with this project's module, data module and defaults."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mlla_seg._version import __version__
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.dataset import CaseDataset
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.headers import note_headers
from mlla_seg.data.postprocessing import in_words
from mlla_seg.errors import InputError
from mlla_seg.evaluation.report import Scored, score_table, write_results
from mlla_seg.models.checkpoint import fitting_weights, flips_of, load_members, read_checkpoint
from mlla_seg.models.nearby import RUNS
from mlla_seg.models.own import import_own, is_class_path
from mlla_seg.places import path_id, shareable, shareable_lines
from mlla_seg.progress import note, say
from mlla_seg.texts import read_text
from mlla_seg.training.checkpoints import BestSegmenter
from mlla_seg.training.config_sections import share_dims
from mlla_seg.training.failures import told_in_a_line
from mlla_seg.training.horizon import position
from mlla_seg.training.loggers import share_version
from mlla_seg.training.module import SegmentationModule
from mlla_seg.training.monitors import logged_names, require_monitored
from mlla_seg.training.postprocessing import choose_postprocessing, prepare_postprocessing
from mlla_seg.training.resume import (
    find_checkpoint,
    name_of,
    note_differences,
    options_of,
    require_same_view,
    require_unseen,
    resume_spec,
)
from mlla_seg.training.run_cli import RunCLI, is_first_process, run_quietly
from mlla_seg.training.scoring import Scoring, published_size
from mlla_seg.training.scribbles import use_cross_entropy_alone
from mlla_seg.training.versions import require_something_left


class SegmentationCLI(RunCLI):
    """LightningCLI that passes the data spec of the card to the module."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data", "model.spec", compute_fn=lambda data: data.spec.to_dict(), apply_on="instantiate")
        parser.add_class_arguments(Scoring)
        super().add_arguments_to_parser(parser)
        parser.add_argument("--recipe", type=str | None, default=None, help=SUPPRESS)  # a key of configs, see cli.py

    def run_name(self) -> str:
        if not self.given.data.card and not self.given.data.root:
            return RUNS  # the data module says that the root is missing
        return name_of(self.given)

    def find_start(self, name: str) -> Path | None:
        return find_checkpoint(name, self.given, to_train=True)

    def best_checkpoint(self) -> BestSegmenter | None:
        return BestSegmenter() if self.datamodule.splits.val else None

    def check_callbacks(self, callbacks: Sequence[Callback]) -> None:
        require_monitored(callbacks, logged_names(self.datamodule.spec, bool(self.datamodule.splits.val)))

    def before_instantiate_classes(self) -> None:
        config = self.given
        if config.choose_postprocessing is not None and self.subcommand != "validate":
            raise InputError(
                f"--choose_postprocessing chooses on the validation split: use it with validate, not {self.subcommand}."
            )
        super().before_instantiate_classes()
        share_dims(config.model, config.data)
        for what in ("encoder", "loss"):
            if is_class_path(config.model[what]):
                import_own(config.model[what], what)
        if self.subcommand == "fit":
            if config.data.scribbles:
                use_cross_entropy_alone(config, is_first_process())
            if config.data.root:  # otherwise the data module says so
                self.resume()
        elif config.get("ckpt_path"):
            config["ckpt_path"] = str(find_checkpoint(config["ckpt_path"], config))
        else:
            raise InputError(
                f"{self.subcommand} needs --ckpt_path: best, last or the path of a .ckpt file written by fit."
            )
        if self.subcommand != "fit":
            config.data.unlabelled = None  # nothing is learnt
            config["verbose"] = False  # the table printed at the end is more detailed

    def after_instantiate_classes(self) -> None:
        """Configure the module's scoring and check the data.

        Runs before other processes are started, so that an error in the data is reported once.
        """
        config = self.given
        if config.evaluation == "transunet" and self.model.spec.axes == 3:
            raise InputError("--evaluation transunet scores slices, one by one: it has no meaning for volumes.")
        self.model.scoring = Scoring(**{field.name: config[field.name] for field in fields(Scoring)})
        trained = self.model.spec
        if path := config.get("ckpt_path"):
            content = read_checkpoint(path)
            fitting_weights(path, content, self.model.network)
            self._require_unseen(path, content)
            if self.subcommand == "fit":
                self._prepare_resuming(path, content)
            else:
                trained = DataSpec.from_dict(content["hyper_parameters"]["spec"], path)
                self._prepare_scoring(path, content)
        if self.model.spec.axes == 3:  # what was chosen is saved with the config
            config.data.crop = list(self.model.spec.patch_size or ())
            config.model.strides = [list(step) for step in self.model.hparams["strides"]]
        self.model.options = options_of(config)
        if config.members:
            self.model.members = load_members([path, *config.members])[1:]
        if config.tta:
            specs = [trained, *(member.spec for member in self.model.members)]
            self.model.flips = flips_of([path or "this run", *config.members], specs)
        if is_first_process():
            self._check_data()

    def _require_unseen(self, path: str, content: Mapping[str, Any]) -> None:
        """Check that neither the checkpoint nor a further member of an ensemble was trained on cases to be scored."""
        splits = self.datamodule.splits
        scored = splits.test if self.subcommand == "test" else splits.val
        require_unseen(path, content, scored)
        for name in self.given.members:
            if Path(name).is_file():
                require_unseen(name, read_checkpoint(name), scored)

    def _prepare_resuming(self, path: str, content: Mapping[str, Any]) -> None:
        """Continue where a checkpoint was saved, and note all options that differ from its own."""
        require_something_left(path, content, self.given.trainer)
        self.datamodule.start = position(content["loops"]["fit_loop"])  # FSDP makes the loader before it loads
        resume_spec(path, content["hyper_parameters"]["spec"], self.model)
        self.model.starts_from = None  # the checkpoint's weights would replace them
        if is_first_process():
            note_differences(content, self.model.hparams, options_of(self.given))

    def _prepare_scoring(self, path: str, content: Mapping[str, Any]) -> None:
        """Check that a checkpoint is scored on data like those of its training, and prepare its post-processing."""
        spec = content["hyper_parameters"]["spec"]
        require_same_view(path, spec, self.datamodule.spec)
        prepare_postprocessing(content, self.model, self.datamodule, str(self.subcommand), self.trainer)

    def _check_data(self) -> None:
        """Print the number of cases, then check and store them."""
        data, config = self.datamodule, self.given
        splits = data.splits
        counts = f"{len(splits.train)} training, {len(splits.val)} validation and {len(splits.test)} test cases"
        further = f"; {len(data.further)} images without labels" if config.data.unlabelled else ""
        say(f"{data.card.title}: {counts}{further}")
        if config.evaluation == "transunet" and data.sample.crop is not None:
            height, width = published_size(self.model.spec)
            note(
                f"note: the TransUNet evaluation resizes slices to {height} x {width}, but this network is trained "
                "on crops at their original scale. To compare with papers train with --data.crop null "
                f"--data.resize [{height},{width}]."
            )
        data.prepare_data()
        note_headers({case.name: case.notes for case in data.stored_further})  # reads them, too

    def _run_subcommand(self, subcommand: str) -> None:
        config = self.config[self.subcommand]
        share_version(self.trainer.loggers)
        with told_in_a_line({**config.data, **config.model}):
            super()._run_subcommand(subcommand)

    def after_fit(self) -> None:
        self.report_training()

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
            **({"transunet at": list(published_size(self.model.spec))} if config.evaluation == "transunet" else {}),
            "version": __version__,
        }
        saved = folder / "config.yaml"  # absent without a logger
        text = shareable_lines(read_text(saved)) if saved.is_file() else ""
        module = self.model.eval()  # Lightning has switched it back to training mode
        scored = Scored(evaluation, module.spec, cases, module.predict_case, module.predict_slice)
        files = write_results(folder, scored, split, about, text)
        say("\n" + "\n".join(f"{path.name:<15} {path}" for path in files))


def folders_of_masks(data: SegmentationDataModule, split: str) -> list[str]:
    """Return the folders, relative to the root, of the masks that a split is scored against.

    Potsdam and Vaihingen, for example, have masks with and without boundaries, which give different scores.
    """
    cases = getattr(data.splits, split)
    return sorted({path.parent.relative_to(data.root).as_posix() for case in cases for path in case.masks})


def run(argv: Sequence[str]) -> None:
    """Run ``fit``, ``validate`` or ``test`` with its options."""
    command, *_ = argv

    class Command(SegmentationCLI):
        """Reads the options of one command, as those of all take three times as long."""

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {command: LightningCLI.subcommands()[command]}

    how = {"exit_on_error": False}
    run_quietly(Command, argv, SegmentationModule, SegmentationDataModule, parser_kwargs={**how, command: how})

"""Loggers of a run: ours is the first and keeps the run folder, whatever else logs; the others log beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger

from mlla_seg.errors import InputError
from mlla_seg.models.nearby import RUNS
from mlla_seg.training.curve import RunLogger, Unlogged

UNNAMED = "lightning_logs"
"""Lightning's default name of runs, projects and experiments."""
OURS = f"{RunLogger.__module__}.{RunLogger.__qualname__}"
SILENT = f"{Unlogged.__module__}.{Unlogged.__qualname__}"
DEFAULT = {"class_path": OURS, "init_args": {"save_dir": RUNS}}
"""The logger of configs that name none; others that are chosen inherit its folder."""
CSV = (OURS, SILENT, "lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.loggers.csv_logs.CSVLogger")
"""Names in configs of loggers that keep a run folder."""
MLFLOW_FILES = "MLFLOW_ALLOW_FILE_STORE"
"""Variable by which a user of MLflow asks for files instead of a database."""


def arrange(config: Any, unnamed: Callable[[], str]) -> None:
    """Make the options' loggers a list whose first is ours: the first CSV logger, or one that is put before the others.

    A relative folder lies in ``--trainer.default_root_dir``.

    Args:
        config: The options of the command.
        unnamed: Returns the name of runs that no logger names.

    Raises:
        InputError: Two loggers write the same file.
    """
    given = config.trainer.get("logger")
    loggers = [*given] if isinstance(given, list) else [] if isinstance(given, bool) or given is None else [given]
    first = next((logger for logger in loggers if logger.class_path in CSV), None)
    if first is None:
        save_dir, name, version = _place(loggers)
        place = Namespace(save_dir=save_dir, name=name, version=version, prefix="", flush_logs_every_n_steps=100)
        first = Namespace(class_path=SILENT if given is False else OURS, init_args=place)
    loggers = [first, *(logger for logger in loggers if logger is not first)]
    folders: list[Path] = []
    for logger in loggers:
        arguments = logger.get("init_args") or Namespace()
        if logger.class_path in CSV[2:]:
            logger.class_path = OURS
        if root := config.trainer.get("default_root_dir"):
            _move(arguments, Path(root))
        _complete(logger.class_path, arguments, unnamed if logger is first else lambda: first.init_args.name)
        if is_tensorboard(logger) and arguments.save_dir == first.init_args.save_dir:
            arguments.name = first.init_args.name  # in the run folder
        if logger.class_path in CSV:
            folders.append(_folder(arguments))
    if doubled := [folder for i, folder in enumerate(folders) if folder in folders[:i]]:
        raise InputError(f"--trainer.logger lists two CSV loggers for {doubled[0]}. Give one another name or save_dir.")
    config.trainer.logger = loggers


def run_folder(config: Any) -> Path:
    """Return the folder in which the first logger keeps the versions of this experiment."""
    return _folder(config.trainer.logger[0].init_args)


def log_to(version: int | str, elsewhere: Sequence[Sequence[Any]], config: Any) -> None:
    """Let the configured loggers continue a run.

    Args:
        version: Version of the run folder.
        elsewhere: What :func:`runs_elsewhere` said of the run.
        config: The options of the command.
    """
    first, left = config.trainer.logger[0].init_args, [*elsewhere]
    for logger in config.trainer.logger:
        arguments = logger.get("init_args") or {}
        if arguments is first or (is_tensorboard(logger) and _folder(arguments) == _folder(first)):
            arguments["version"] = version
        elif run := next((run for run in left if logger.class_path.endswith(run[0])), None):
            left.remove(run)
            if logger.class_path.endswith("MLFlowLogger"):
                logger.class_path, arguments["run_id"] = CONTINUED, run[1]
            elif "version" in arguments:
                arguments["version"] = run[1]


def share_version(loggers: Sequence[Logger]) -> None:
    """Give TensorBoard in the run folder the version of the first logger, which is known only when the run starts."""
    for logger in _in_run_folder(loggers):
        if logger._version is None:
            logger._version = loggers[0].version  # Lightning takes it in the constructor only


def runs_elsewhere(loggers: Sequence[Logger]) -> list[list[Any]]:
    """Return class and run of each logger that keeps its run elsewhere, such as those of W&B and MLflow."""
    others = [logger for logger in loggers[1:] if logger not in _in_run_folder(loggers)]
    runs = [[_kind(logger), logger.version] for logger in others]
    return [run for run in runs if isinstance(run[1], (int, str)) and run[1] != ""]


class ContinuedMLFlowLogger(MLFlowLogger):
    """Continues a run of MLflow, which refuses hyper-parameters that differ from those of its start."""

    def log_hyperparams(self, params: Any) -> None:
        """Leave them out; ``config.yaml`` has those of today."""


CONTINUED = f"{ContinuedMLFlowLogger.__module__}.{ContinuedMLFlowLogger.__qualname__}"


def is_tensorboard(logger: Any) -> bool:
    """Return whether a configured logger is Lightning's for TensorBoard."""
    return logger.class_path.endswith(TensorBoardLogger.__name__)


def _kind(logger: Logger) -> str:
    return MLFlowLogger.__name__ if isinstance(logger, MLFlowLogger) else type(logger).__name__


def _in_run_folder(loggers: Sequence[Logger]) -> list[TensorBoardLogger]:
    boards = [logger for logger in loggers[1:] if isinstance(logger, TensorBoardLogger)]
    return [board for board in boards if Path(board.root_dir) == Path(getattr(loggers[0], "root_dir", ""))]


def _folder(arguments: Any) -> Path:
    return Path(arguments["save_dir"], arguments["name"] or "")


def _place(loggers: Sequence[Any]) -> tuple[str, str, int | str | None]:
    """Return folder, name and version of the runs of loggers without a CSV logger among them.

    The folder is that of the first, and the name of the first that has one. W&B has projects and MLflow experiments
    of several runs, so there the name has two parts.
    """
    save_dir, name, version = "", "", None
    for logger in loggers:
        arguments = logger.get("init_args") or {}
        save_dir = save_dir or str(arguments.get("save_dir") or "")
        group = arguments.get("project") or arguments.get("experiment_name")
        parts = (group, arguments.get("name") or arguments.get("run_name"))
        name = name or "/".join(part for part in parts if part not in (None, "", UNNAMED))
        if is_tensorboard(logger):
            version = arguments.get("version")
    return save_dir or RUNS, name or UNNAMED, version


def _complete(class_path: str, arguments: Any, name: Callable[[], str]) -> None:
    """Name what a logger leaves unnamed, and let MLflow write a database, as it has given up folders of files."""
    project = next((key for key in ("project", "experiment_name") if key in arguments), None)
    if project and arguments[project] in (None, UNNAMED):
        arguments[project] = name()
    if arguments.get("name") == UNNAMED:
        arguments["name"] = None if project else name()
    if class_path.endswith("MLFlowLogger") and not arguments.get("tracking_uri") and not os.environ.get(MLFLOW_FILES):
        folder = Path(arguments.get("save_dir") or RUNS).absolute()
        arguments["tracking_uri"] = f"sqlite:///{folder / 'mlflow.db'}"
        arguments["artifact_location"] = arguments.get("artifact_location") or str(folder / "mlflow")


def _move(arguments: Any, root: Path) -> None:
    """Place a logger's relative folder into ``root``, unless it lies there, as in the ``config.yaml`` of a run."""
    folder = arguments.get("save_dir")
    if folder and not Path(folder).is_absolute() and not Path(folder).is_relative_to(root):
        arguments["save_dir"] = str(root / folder)

"""Whatever logs, a run has its folder, its checkpoints are found there, and a resumed run goes on in it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from lightning.pytorch.loggers.logger import Logger

from conftest import ROOT, TINY
from mlla_seg.evaluation.tables import read_csv

OWN = f"{__name__}.Ledger"
NAMED = f"{{class_path: {OWN}, init_args: {{project: p, name: a}}}}"


class Ledger(Logger):
    """A logger that keeps its runs elsewhere, as that of W&B does."""

    wrote: ClassVar[list[tuple[str, int]]] = []  # run and step

    def __init__(self, project: str = "lightning_logs", name: str | None = None, version: str | None = None) -> None:
        super().__init__()
        self._name, self._version = f"{project}/{name}", version

    @property
    def name(self):
        return self._name

    @property
    def version(self):
        self._version = self._version or f"id{len(self.wrote)}"
        return self._version

    def log_hyperparams(self, *_):
        pass

    def log_metrics(self, metrics, step=None):
        if "val/dice" in metrics:
            self.wrote.append((f"{self.name} {self.version}", step))


@pytest.fixture
def run(cli, phantom_root):
    """Run a command on the phantom with loggers and further options."""
    Ledger.wrote.clear()

    def call(command, loggers, *more):
        options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
        if command == "fit":
            options += ["--trainer.limit_train_batches=2", "--trainer.max_epochs=1"]
        cli(command, *options, f"--trainer.logger={loggers}", *more)

    return call


def files(folder: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).glob("**/*") if path.is_file()}


RUN = {"config.yaml", "metrics.csv", "training.png", "hparams.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt"}


def test_runs_of_any_logger_are_found_kept_apart_and_resumed(run, capsys):
    run("fit", NAMED)
    other = NAMED.replace("name: a", "name: b")
    run("fit", f"[{other}]")
    assert files("runs/p/a/version_0") == files("runs/p/b/version_0") == RUN
    run("fit", f"[{NAMED}]", "--ckpt_path=last", "--trainer.max_epochs=2", "--model.lr=1e-4")
    assert Ledger.wrote == [("p/a id0", 1), ("p/b id1", 1), ("p/a id0", 3)]
    rows = [row for row in read_csv(Path("runs/p/a/version_0/metrics.csv")) if row["val/dice"]]
    assert [row["step"] for row in rows] == ["1", "3"]
    run("validate", NAMED, "--ckpt_path=best", "--distances=false")
    assert "runs/p/a/version_1/summary.json" in capsys.readouterr().out
    assert {path.name for path in Path().iterdir()} <= {"runs", "cache"}
    Path("runs/p/b/version_0/checkpoints/best.ckpt").unlink()
    run("validate", other, "--ckpt_path=best", "--distances=false")
    said = "there is no best.ckpt, which the first validation writes; runs/p/b/version_0/checkpoints/last.ckpt is used"
    assert said in capsys.readouterr().err


def test_without_logger_a_run_keeps_its_folder_and_logs_nothing(run):
    run("fit", "false", "--trainer.default_root_dir=there")
    assert files("there/runs/phantom/version_0") == RUN - {"metrics.csv", "training.png", "hparams.yaml"}
    run("fit", "false", "--trainer.default_root_dir=there", "--ckpt_path=last", "--trainer.max_epochs=2")
    assert [path.name for path in Path("there/runs/phantom").iterdir()] == ["version_0"]


def test_lists_of_csv_loggers_continue_together(run, capsys):
    places = ("{save_dir: a}", "{save_dir: b, name: x}")
    loggers = f"[{', '.join(f'{{class_path: CSVLogger, init_args: {place}}}' for place in places)}]"
    Path("b/x/version_0").mkdir(parents=True)  # of another experiment
    run("fit", loggers)
    run("fit", loggers, "--ckpt_path=last", "--trainer.max_epochs=2")
    for folder in ("a/demo/version_0", "b/x/version_1"):
        assert [row["step"] for row in read_csv(Path(folder, "metrics.csv")) if row["val/dice"]] == ["1", "3"]
    config = yaml.safe_load(Path("a/demo/version_0/config.yaml").read_text())
    assert [logger["init_args"]["save_dir"] for logger in config["trainer"]["logger"]] == ["a", "b"]
    with pytest.raises(SystemExit):
        run("fit", "[CSVLogger, CSVLogger]")
    assert "two CSV loggers for runs/demo. Give one another name or save_dir" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="pip install tensorboard")
def test_tensorboard_logs_into_the_run_folder(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run("fit", "TensorBoardLogger")
    run("fit", "[TensorBoardLogger]", "--ckpt_path=last", "--trainer.max_epochs=2")
    assert [path.name for path in Path("runs/demo").iterdir()] == ["version_0"]
    events = EventAccumulator("runs/demo/version_0")
    events.Reload()
    assert [event.step for event in events.Scalars("val/dice")] == [1, 3]


@pytest.mark.parametrize(("logger", "package"), [("TensorBoardLogger", "tensorboard"), ("WandbLogger", "wandb")])
def test_a_missing_package_is_said_in_a_line(logger, package, run, capsys):
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(SystemExit):
        run("fit", f"[CSVLogger, {logger}]")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(said) == 1
    assert said[0].startswith(f"error: {logger} needs another package. ")
    assert said[0].count("pip install") == 1

"""A training that is killed or stopped at any point and resumed ends bitwise as one that never was interrupted."""

from __future__ import annotations

import os
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import torch

from conftest import ROOT, TINY, run_main
from forks import run_apart

EMA = "{class_path: mlla_seg.training.ema.WarmEMA}"
STATUS = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 138}


def options_for(root: Path) -> list[str]:
    """Options of a run with five batches and three optimiser steps per epoch, EMA, and loader processes."""
    options = [f"--config={ROOT / 'configs/demo.yaml'}", f"--data.root={root}", "--data.crop=[32,32]", *TINY]
    options += ["--data.num_workers=2", "--data.seed=1", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"]
    return [*options, "--trainer.accumulate_grad_batches=2", f"--trainer.callbacks=[{EMA}]"]


@pytest.fixture
def options(phantom_root):
    return options_for(phantom_root)


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory, phantom_root):
    """The folder of a run with further options that is not interrupted, trained once."""

    @cache
    def train(*more: str) -> Path:
        folder, before = tmp_path_factory.mktemp("whole"), Path.cwd()
        os.chdir(folder)
        try:
            run_main("fit", *options_for(phantom_root), *more)
        finally:
            os.chdir(before)
        return folder / "runs/demo/version_0"

    return train


@pytest.fixture
def whole(whole_of):
    return whole_of()


def killing(options, name, step, at="on_train_batch_end", rank=0):
    """Options of the run that gets a signal."""
    kill = f"{{class_path: killer.Kill, init_args: {{name: {name}, step: {step}, at: {at}, rank: {rank}}}}}"
    return [*(o for o in options if "callbacks" not in o), f"--trainer.callbacks=[{EMA},{kill}]"]


def assert_same(found, expected, where=""):
    """Assert bitwise equality of nested contents, apart from paths."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}/{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{where}/{index}")
    else:
        assert found == expected, where


def assert_same_run(run, whole):
    """Assert that weights, average, moments, schedule, scores and curve are those of the whole run."""
    for name in ("best", "last"):
        found, expected = (
            torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True) for folder in (run, whole)
        )
        for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "epoch", "epoch_loss"):
            assert_same(found[key], expected[key], key)
        for key, state in expected["callbacks"].items():
            if "best_model_score" in state:
                assert_same(found["callbacks"][key]["best_model_score"], state["best_model_score"], key)
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (run / "training.png").is_file()
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


@pytest.mark.parametrize(
    ("name", "step", "at"),
    [
        ("SIGTERM", 1, "on_train_batch_end"),  # at once, in the first epoch
        ("SIGINT", 4, "on_train_batch_start"),  # in the second epoch, within an accumulation
        ("SIGTERM", 2, "on_before_optimizer_step"),  # the last step of an epoch: before its validation
        ("SIGUSR1", 3, "on_validation_batch_start"),  # in the middle of a validation, while weights are averages
        ("SIGTERM", 3, "on_validation_end"),
    ],
)
def test_a_stopped_run_saves_says_how_to_resume_and_goes_on_as_if_nothing_had_been(
    cli, capsys, options, whole, name, step, at
):
    with pytest.raises(SystemExit) as stop:
        cli("fit", *killing(options, name, step, at))
    assert stop.value.code == STATUS[name]
    said = capsys.readouterr().err
    assert f"Stopped by {name} after step" in said
    (command,) = re.findall(r"^To resume: python cli\.py (.*)$", said, flags=re.M)
    assert "--ckpt_path runs/demo/version_0/checkpoints/last.ckpt" in command
    cli("fit", *options, "--ckpt_path", shlex.split(command)[-1])
    assert_same_run(Path("runs/demo/version_0"), whole)


@pytest.mark.parametrize(
    ("step", "at"),
    [
        (4, "on_train_batch_end"),  # within an epoch, after a checkpoint of each step
        (3, "on_save_checkpoint"),  # at the end of the first epoch, before anything is saved
    ],
)
def test_a_killed_run_goes_on_from_its_latest_checkpoint(cli, options, whole, step, at):
    killed = run_apart("fit", *killing(options, "SIGKILL", step, at), "--checkpoint_minutes=0")
    assert killed.returncode == -9, killed.stderr
    cli("fit", *options, "--ckpt_path=last")
    assert_same_run(Path("runs/demo/version_0"), whole)


STEPS = ["--trainer.max_epochs=-1", "--trainer.max_steps=8"]  # Lightning resumes these in another way
WITHIN = ["--trainer.max_epochs=3", "--trainer.val_check_interval=2"]
SELDOM = ["--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2"]


@pytest.mark.parametrize(
    ("course", "step", "at"),
    [
        (STEPS, 4, "on_train_batch_end"),
        (STEPS, 3, "on_validation_end"),
        (STEPS, 6, "on_validation_start"),
        (WITHIN, 3, "on_train_batch_end"),
        (WITHIN, 4, "on_validation_end"),
        (WITHIN, 5, "on_validation_start"),
        (SELDOM, 3, "on_train_batch_end"),
        (SELDOM, 4, "on_train_batch_end"),
        (SELDOM, 6, "on_validation_end"),
    ],
)
def test_other_courses_resume_as_the_same_run(cli, options, whole_of, course, step, at):
    course = [*course, "--data.num_workers=0"]
    with pytest.raises(SystemExit) as stop:
        cli("fit", *killing(options, "SIGTERM", step, at), *course)
    assert stop.value.code == 143
    cli("fit", *options, *course, "--ckpt_path=last")
    assert_same_run(Path("runs/demo/version_0"), whole_of(*course))


def test_slurm_requeues_a_job_that_resumes_by_itself(cli, capsys, monkeypatch, tmp_path, options, whole):
    tool = tmp_path / "bin/scontrol"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$@" > asked.txt\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    job = {"NTASKS": 1, "JOB_NAME": "train", "JOB_ID": 42, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for key, value in job.items():
        monkeypatch.setenv(f"SLURM_{key}", str(value))
    with pytest.raises(SystemExit) as stop:
        cli("fit", *killing(options, "SIGUSR1", 4))
    assert stop.value.code == 138
    assert Path("asked.txt").read_text() == "requeue 42\n"
    assert "SLURM will start this job again, and it will resume." in capsys.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    cli("fit", *options)
    assert_same_run(Path("runs/demo/version_0"), whole)
    assert not list(Path().glob("hpc_ckpt*"))


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step_and_go_on(cli, options):
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.num_workers=0"]
    run = Path("runs/demo/version_0")
    done = run_apart("fit", *options, *two, ranks=2)
    assert done.returncode == 0, done.stderr
    expected = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    curve = (run / "metrics.csv").read_text()
    named = "--trainer.logger.init_args.name=stopped"
    stopped = run_apart("fit", *killing(options, "SIGTERM", 4, rank=1), *two, named)  # one, which Lightning starts
    assert stopped.returncode == 143, stopped.stderr
    assert stopped.stderr.count("Stopped by SIGTERM after step 4") == 1
    done = run_apart("fit", *options, *two, named, "--ckpt_path=last", ranks=2)
    assert done.returncode == 0, done.stderr
    found = torch.load("runs/stopped/version_0/checkpoints/last.ckpt", weights_only=True)
    for key in ("state_dict", "current_model_state", "optimizer_states"):
        assert_same(found[key], expected[key], key)
    assert Path("runs/stopped/version_0/metrics.csv").read_text() == curve

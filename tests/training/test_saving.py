"""Checkpoints on full disks, damaged checkpoints, and the choice of the one to resume from."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from conftest import ROOT, TINY
from mlla_seg.errors import InputError
from mlla_seg.locks import release
from mlla_seg.models.checkpoint import read_checkpoint
from mlla_seg.training.run_folder import hold, remove_killed
from mlla_seg.training.saving import DurableCheckpointIO
from mlla_seg.training.stopping import StopSignals
from small_disk import on_small_disk


@pytest.fixture
def options(phantom_root):
    return ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]


def damage(path):
    """Flip the exponent of a weight."""
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["state_dict"]["network.head.weight"].numpy().tobytes()
    content[content.index(weight) + 3] ^= 0x20
    path.write_bytes(content)


def refused(capsys, cli, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli(*arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    return error[error.index("error: ") :]


def test_a_full_disk_leaves_the_former_checkpoint_and_says_how_much_is_missing(tmp_path):
    def fill(folder):
        path = folder / "last.ckpt"
        DurableCheckpointIO().save_checkpoint({"x": torch.zeros(100_000)}, path)
        with pytest.raises(InputError) as error:
            DurableCheckpointIO().save_checkpoint({"x": torch.ones(1_000_000)}, path)
        kept = torch.load(path, weights_only=True)["x"]
        return str(error.value), [file.name for file in folder.iterdir()], kept.shape, float(kept.sum())

    message, *kept = on_small_disk(tmp_path / "disk", fill)
    assert "/disk/last.ckpt: the disk is full: 4.0 MB are needed, 2.7 MB are free in " in message
    assert message.endswith("The last.ckpt before is kept. Free some space, then resume with --ckpt_path last.")
    assert kept == [["last.ckpt"], torch.Size([100_000]), 0.0]


def test_a_checkpoint_never_goes_through_another_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    path = tmp_path / "run/checkpoints/last.ckpt"
    DurableCheckpointIO().save_checkpoint({"x": 1}, path)
    assert torch.load(path, weights_only=True) == {"x": 1}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_flipped_bit_is_refused(checkpoint, tmp_path, cli, capsys, phantom_root):
    path = tmp_path / "flipped.ckpt"
    shutil.copy(checkpoint, path)
    damage(path)
    torch.load(path, weights_only=True)  # torch does not notice
    with pytest.raises(InputError, match=r"flipped\.ckpt: is damaged: the checksum of .* is wrong"):
        read_checkpoint(path)
    message = refused(capsys, cli, "predict", "--ckpt_path", path, "--input", phantom_root, "--output", "masks")
    assert "flipped.ckpt: is damaged" in message


def test_last_starts_anew_where_there_is_none_and_says_so(cli, capsys, options):
    one = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    killed = Path("runs/demo/version_0/checkpoints")
    killed.mkdir(parents=True)
    (killed / ".lock").touch()
    (killed / ".123.last.ckpt").write_bytes(b"half")
    (killed.parent / "metrics.csv").touch()
    cli("fit", *options, *one, "--ckpt_path=last")
    said = capsys.readouterr().err
    assert "note: no checkpoint below runs/demo yet, so training starts anew." in said
    assert "note: removed runs/demo/version_0, which a killed run left without a checkpoint" in said
    assert sorted(path.name for path in killed.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert [path.name for path in killed.parents[1].iterdir()] == ["version_0"]


def test_a_damaged_file_of_an_earlier_version_blocks_nothing(cli, capsys, options, trained):
    shutil.copytree(trained / "runs", "runs")
    shutil.copytree("runs/demo/version_0", "runs/demo/version_1")
    old, new = (Path(f"runs/demo/version_{k}/checkpoints/last.ckpt") for k in (0, 1))
    old.write_bytes(b"broken")
    cli("fit", *options, "--ckpt_path=last", "--trainer.max_epochs=2")
    said = capsys.readouterr().err
    assert "note: left out runs/demo/version_0/checkpoints/last.ckpt: cannot be read" in said
    damage(new)
    message = refused(capsys, cli, "fit", *options, "--ckpt_path=last")
    assert "version_1/checkpoints/last.ckpt: is damaged" in message  # rather than going on with another run


def test_a_better_checkpoint_on_the_disk_is_not_replaced_by_a_worse_one(cli, options, trained):
    shutil.copytree(trained / "runs", "runs")
    best = Path("runs/demo/version_0/checkpoints/best.ckpt")
    content = torch.load(best, weights_only=True)
    (state,) = [state for key, state in content["callbacks"].items() if "val/dice" in key]
    state["best_model_score"] = torch.tensor(0.999)  # as after a kill between best.ckpt and last.ckpt
    torch.save(content, best)
    before = best.read_bytes()
    cli("fit", *options, "--ckpt_path=last", "--trainer.max_epochs=4")
    assert best.read_bytes() == before
    last = torch.load(best.with_name("last.ckpt"), weights_only=True)
    scores = [float(s["best_model_score"]) for key, s in last["callbacks"].items() if "val/dice" in key]
    assert scores == pytest.approx([0.999])


def test_a_run_has_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr("mlla_seg.training.run_folder.WAIT", 0.1)
    checkpoints = tmp_path / "version_0/checkpoints"
    lock = hold(checkpoints)
    remove_killed(tmp_path)  # it is alive
    with pytest.raises(InputError, match=r"version_0: another process is training in this folder"):
        hold(checkpoints)
    release(lock)
    assert list(checkpoints.iterdir()) == []
    (checkpoints / ".1.last.ckpt").touch()  # of a process that was killed while it saved
    release(hold(checkpoints))
    assert list(checkpoints.iterdir()) == []


def test_runs_that_left_something_are_not_removed(tmp_path):
    for name, file in {"saved": "checkpoints/last.ckpt", "scored": "summary.json", "foreign": "events.out"}.items():
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints/.lock").touch()
        (tmp_path / name / file).touch()
    (tmp_path / "validating").mkdir()
    (tmp_path / "killed/checkpoints").mkdir(parents=True)
    (tmp_path / "killed/checkpoints/.lock").touch()
    remove_killed(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "scored", "foreign", "validating"}
    with FileLock(tmp_path / "saved/checkpoints/.lock").acquire(timeout=0):
        pass


def test_a_run_killed_before_its_lock_is_removed_after_a_day(tmp_path, capsys):
    for run in ("version_0", "version_1", "version_2/checkpoints", "version_3", "mine", "version_4"):
        (tmp_path / run).mkdir(parents=True)
    for run in ("version_1", "version_3", "version_4"):
        (tmp_path / run / "config.yaml").touch()
    (tmp_path / "version_3/report.html").touch()
    for path in [*tmp_path.rglob("*")]:
        if "version_4" not in path.parts:  # which may be starting
            os.utime(path, (0, 0))
    remove_killed(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"version_3", "version_4", "mine"}
    assert capsys.readouterr().err.count("which a killed run left without a checkpoint") == 3


def test_a_second_interrupt_ends_it_at_once():
    child = os.fork()
    if not child:
        StopSignals().watch()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130

"""What a run says of its size and time, and the curve that grows while it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch import Callback

from conftest import ROOT, TINY
from mlla_seg.training import announce
from mlla_seg.training.announce import duration_in_words

RUN = Path("runs/demo/version_0")


class Watcher(Callback):
    """Notes the epochs in which ``training.png`` is there before training has ended."""

    drawn: list[int]

    def on_train_start(self, *_):
        type(self).drawn = []

    def on_train_batch_end(self, trainer, *_):
        picture = RUN / "training.png"
        if picture.is_file():
            self.drawn.append(trainer.current_epoch)
            picture.unlink()


@pytest.fixture
def fit(cli, phantom_root, monkeypatch):
    monkeypatch.setattr(announce, "SHARE", 1e9)
    monkeypatch.setattr(announce, "BETWEEN_LINES", 0)
    options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
    options += ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    callbacks = f"--trainer.callbacks=[{{class_path: {__name__}.Watcher}}]"
    return lambda *more: cli("fit", *options, callbacks, *more)


def test_size_and_time_left_are_said_and_the_curve_grows(fit, capsys):
    fit("--trainer.max_epochs=3")
    said = capsys.readouterr().err
    assert "M parameters; 0.0" in said
    assert "G multiply-accumulates per training image of 32 x 32; at most 6 steps, 3 epochs of 2 batches\n" in said
    assert "epoch 1/3, step 2/6, about " in said
    assert "epoch 2/3, step 4/6, about " in said
    assert "epoch 3/3" not in said
    assert Watcher.drawn == [1, 2]
    assert (RUN / "training.png").is_file()
    fit("--trainer.max_epochs=5", "--ckpt_path=last", "--model.freeze=encoder")
    said = capsys.readouterr().err
    assert "M are frozen; " in said
    assert "at most 10 steps, 5 epochs of 2 batches, resumed after 6\n" in said
    assert "epoch 4/5, step 8/10, about " in said


def test_a_run_that_is_limited_by_time_says_so(fit, capsys):
    fit("--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:20", "--trainer.max_steps=4", "--trainer.logger=false")
    said = capsys.readouterr().err
    assert "32 x 32; at most 4 steps, 20 s left" in said
    assert "epoch 1, step 2/4, about " in said


def test_the_batch_of_a_step_is_said_where_it_is_not_one_batch_of_one_process(fit, capsys):
    fit("--trainer.max_steps=1", "--trainer.logger=false", "--trainer.accumulate_grad_batches=2", "--model.lr=2e-3")
    assert (
        "Each optimiser step sees 16 samples: 8, over 2 batches. The learning rate is --model.lr 0.002 whatever their "
        "number.\n" in capsys.readouterr().err
    )
    fit("--trainer.max_steps=1", "--trainer.logger=false")
    assert "Each optimiser step" not in capsys.readouterr().err


def test_durations_are_said_in_words():
    seconds = (0.2, 59, 60, 89, 7800, 3599)
    assert [duration_in_words(s) for s in seconds] == ["1 s", "59 s", "1 min", "1 min", "2 h 10 min", "1 h 0 min"]

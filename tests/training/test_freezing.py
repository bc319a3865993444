"""Freezing of the encoder through the real command line: weights, statistics, later training and resuming."""

from __future__ import annotations

import pytest
import torch

from conftest import ROOT, TINY
from mlla_seg.errors import InputError
from mlla_seg.training.freezing import Freezing

LAST = "runs/demo/version_0/checkpoints/last.ckpt"


@pytest.fixture
def fit(cli, phantom_root):
    """Train for two steps an epoch; returns the weights of the encoder and of the others."""
    config = ROOT / "configs/demo.yaml"
    options = ["--config", config, f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
    options += ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--trainer.callbacks=[]"]

    def run(epochs, *more):
        cli("fit", *options, f"--trainer.max_epochs={epochs}", *more)
        weights = torch.load(LAST, weights_only=True)["state_dict"]
        encoder = {name: value for name, value in weights.items() if name.startswith("network.encoder.")}
        return encoder, {name: value for name, value in weights.items() if name not in encoder}

    return run


def changed(before, after):
    return [name for name in before if not torch.equal(before[name], after[name])]


def test_a_frozen_encoder_keeps_weights_and_statistics_until_its_steps_are_over(fit):
    first, others = fit(1, "--model.freeze=encoder", "--model.freeze_steps=4")
    second, trained = fit(2, "--model.freeze=encoder", "--model.freeze_steps=4", "--ckpt_path=last")
    assert not changed(first, second)
    assert any("running_mean" in name for name in first)
    assert changed(others, trained)
    third, _ = fit(3, "--model.freeze=encoder", "--model.freeze_steps=4", "--ckpt_path=last")
    assert len(changed(second, third)) == len(second)


def test_an_encoder_frozen_for_good_is_resumed_frozen_or_not(fit, capsys):
    first, _ = fit(1, "--model.freeze=encoder")
    assert "note: the encoder is frozen with random weights" in capsys.readouterr().err
    frozen, _ = fit(2, "--model.freeze=encoder", "--ckpt_path=last")
    assert not changed(first, frozen)
    trained, _ = fit(3, "--ckpt_path=last")
    assert "freeze None instead of encoder" in capsys.readouterr().err
    assert len(changed(frozen, trained)) == len(frozen)


@pytest.mark.parametrize(
    ("part", "steps", "said"), [(None, 3, "needs --model.freeze"), ("encoder", 0, "1 or more, got 0")]
)
def test_steps_that_make_no_sense_are_refused(part, steps, said):
    with pytest.raises(InputError, match=said):
        Freezing(part, steps)

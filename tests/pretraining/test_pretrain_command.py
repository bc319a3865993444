"""The command pretrain: what it leaves, resuming bit by bit after a signal, use by fit, and refusals in a line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from class_folders import write_class_folders

from conftest import ROOT, TINY
from mlla_seg import create_model, load_pretrained
from mlla_seg.models.checkpoint import read_content
from mlla_seg.pretraining.classification import ClassificationModule

CONFIG = ROOT / "configs/pretrain_imagenet.yaml"
RUNS = Path("runs/pretrain_imagenet")


@pytest.fixture
def options(tmp_path):
    root = write_class_folders(tmp_path / "images", train=6)
    small = [f"--data.root={root}", "--data.size=[32,32]", "--data.channels=1", "--data.batch_size=6"]
    quick = [*small, *(word for word in TINY if "decoder" not in word and "batch_size" not in word)]
    return ["--config", CONFIG, *quick, "--trainer.precision=32-true", "--trainer.max_epochs=2"]


def refused(capsys, cli, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli(*arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error[error.index("error: ") :]


def test_a_run_stopped_within_an_epoch_ends_as_if_it_were_not(cli, capsys, options, monkeypatch):
    cli("pretrain", *options)
    said = capsys.readouterr()
    assert "18 training images of 3 classes, 6 validation images, as L of 32 x 32" in said.out
    assert f"--model.pretrained {RUNS}/version_0/checkpoints/best.ckpt" in said.out
    assert (RUNS / "version_0/training.png").stat().st_size > 5000
    assert yaml.safe_load((RUNS / "version_0/config.yaml").read_text())["model"]["init_args"]["encoder"] == "mlla_test"
    step = ClassificationModule.training_step

    def stopped_in_the_second_epoch(module, batch, index):
        if module.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(module, batch, index)

    with monkeypatch.context() as changed:
        changed.setattr(ClassificationModule, "training_step", stopped_in_the_second_epoch)
        with pytest.raises(SystemExit) as stop:
            cli("pretrain", *options)
    assert stop.value.code == 128 + signal.SIGTERM
    assert read_content(RUNS / "version_1/checkpoints/last.ckpt")["global_step"] == 5
    cli("pretrain", *options, "--ckpt_path=last")
    whole, parts = (read_content(RUNS / f"version_{k}/checkpoints/last.ckpt") for k in (0, 1))
    assert whole["global_step"] == parts["global_step"] == 6
    for key in ("state_dict", "current_model_state", "optimizer_states", "averaging_state", "epoch_loss"):
        torch.testing.assert_close(parts[key], whole[key], rtol=0, atol=0)
    rows = [(RUNS / f"version_{k}/metrics.csv").read_text() for k in (0, 1)]
    assert rows[0] == rows[1]
    checkpoint = RUNS / "version_0/checkpoints/best.ckpt"
    network = create_model("mlla_test", "mlla_unet", in_channels=1)
    load_pretrained(network, checkpoint)
    average = read_content(checkpoint)["state_dict"]
    for name, value in network.encoder.state_dict().items():
        if f"network.encoder.{name}" in average and not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, average[f"network.encoder.{name}"], rtol=0, atol=0)
    block = "blocks.0.mixer.qk.weight"
    own = [name for name in network.state_dict() if name.endswith(block) and name.startswith("decoder")]
    assert all(torch.equal(network.state_dict()[name], average[f"network.encoder.stages.{2 - k}.{block}"])
               for k, name in enumerate(sorted(own)))  # fmt: skip
    assert "is a checkpoint of pretrain, which segments nothing" in refused(
        capsys, cli, "predict", "--ckpt_path", checkpoint, "--input", "x.png", "--output", "y"
    )
    mixer = refused(capsys, cli, "pretrain", *options, "--ckpt_path=last", "--model.mixer=linear")
    assert "was trained with mixer linear_attention, the config gives linear" in mixer
    assert "has been trained for 2 epochs" in refused(
        capsys, cli, "pretrain", *options, "--ckpt_path=last", "--trainer.max_epochs=1"
    )


def test_mistakes_are_answered_in_a_line(cli, capsys, options, tmp_path):
    def pretrain(*extra):
        return refused(capsys, cli, "pretrain", *options, *extra)

    assert "absent/train does not exist" in pretrain("--data.root=absent")
    assert "gives an odd number of images" in pretrain("--data.batch_size=3")
    assert "fewer than one batch: set --data.batch_size to 18 or less" in pretrain("--data.batch_size=20")
    assert "MESA needs averaged weights" in pretrain("--trainer.callbacks=null")
    assert "Did you mean mlla_tiny" in pretrain("--model.encoder=mlla_tinny")
    assert "no such checkpoint" in pretrain("--ckpt_path=absent.ckpt")
    assert "is not a config of pretraining" in refused(capsys, cli, "pretrain", "--config", "demo")
    assert "python cli.py pretrain --config" in refused(capsys, cli, "fit", "--config", CONFIG)

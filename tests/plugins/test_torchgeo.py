"""MLLA in torchgeo: its tasks train on its data modules with our encoders by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from lightning.pytorch import Trainer

from layouts import write_landcover
from mlla_seg import MLLA, load_pretrained
from mlla_seg.models.mlla import SIZES

pytest.importorskip("torchgeo", reason="pip install 'mlla_seg[torchgeo]'")

SIZE = {key: SIZES["mlla_test"][key] for key in ("embed_dim", "depths", "num_heads")}


@pytest.fixture(scope="module")
def tasks():
    from torchgeo import trainers

    import mlla_seg.plugins.torchgeo  # noqa: F401

    return trainers


@pytest.fixture
def chips(tmp_path):
    write_landcover(tmp_path, size=64)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("model", ["unet", "deeplabv3+", "upernet", "segformer"])
def test_semantic_segmentation_trains(tasks, chips, model):
    from torchgeo.datamodules import LandCoverAI100DataModule

    torch.manual_seed(0)
    task = tasks.SemanticSegmentationTask(model=model, backbone="mlla_test", in_channels=3, num_classes=5, lr=1e-3)
    before = task.model.encoder.mlla.stem.conv1[0].weight.detach().clone()
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(task, LandCoverAI100DataModule(root=chips, batch_size=2))
    assert torch.isfinite(trainer.callback_metrics["train_loss"])
    assert not torch.equal(task.model.encoder.mlla.stem.conv1[0].weight, before)


def test_classification_through_timm(tasks):
    task = tasks.ClassificationTask(model="mlla_test", in_channels=4, num_classes=3)
    assert task.model(torch.randn(2, 4, 64, 64)).shape == (2, 3)


def test_released_weights_load_into_a_task(tasks):
    classifier = MLLA(**SIZE)
    task = tasks.SemanticSegmentationTask(model="unet", backbone="mlla_test", in_channels=3, num_classes=2)
    report = load_pretrained(task, classifier.state_dict())
    assert {name[:25] for name in report.missing if ".mlla." in name} == {"model.encoder.mlla.norms."}
    torch.testing.assert_close(task.model.encoder.mlla.stages.state_dict(), classifier.encoder.stages.state_dict())


@pytest.mark.parametrize(("key", "prefix"), [("model", "model."), ("backbone", "model.backbone.model.")])
def test_checkpoints_of_torchgeo_load_by_its_own_option(tasks, tmp_path, key, prefix):
    """Classification and MoCo tasks save a classifier under ``model``, SimCLR and BYOL a backbone."""
    classifier = timm.create_model("mlla_test")
    weights = {prefix + name: value for name, value in classifier.state_dict().items()}
    torch.save({"hyper_parameters": {key: "mlla_test"}, "state_dict": weights}, tmp_path / "x.ckpt")
    file = str(tmp_path / "x.ckpt")
    segmentation = tasks.SemanticSegmentationTask(backbone="mlla_test", weights=file, num_classes=6)
    classification = tasks.ClassificationTask(model="mlla_test", weights=file, num_classes=1000)
    for encoder in (segmentation.model.encoder.mlla, classification.model.encoder):
        torch.testing.assert_close(encoder.stages.state_dict(), classifier.encoder.stages.state_dict())


@pytest.mark.slow
def test_its_command_line_knows_our_encoders(tasks, chips, tmp_path):
    options = {
        "--model": "SemanticSegmentationTask",
        "--model.backbone": "mlla_test",
        "--model.num_classes": "5",
        "--data": "LandCoverAI100DataModule",
        "--data.batch_size": "2",
        "--data.dict_kwargs.root": str(chips),
        "--trainer.fast_dev_run": "true",
        "--trainer.accelerator": "cpu",
    }
    command = [sys.executable, "-W", "ignore", "-m", "mlla_seg.plugins.torchgeo", "fit"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(
        [*command, *(f"{name}={value}" for name, value in options.items())],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    assert "`Trainer.fit` stopped: `max_steps=1` reached." in run.stdout + run.stderr

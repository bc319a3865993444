"""Diverging training stops with a message; NaN and infinite values are never saved, loaded or turned into masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT, TINY
from forks import run_apart
from mlla_seg import Predictor, SegmentationDataModule, SegmentationModule
from mlla_seg.data.slices import View
from mlla_seg.errors import InputError
from mlla_seg.finite import require_finite_logits, require_finite_loss, require_finite_weights
from mlla_seg.inference.cases import labels_of, predict_case
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.models.checkpoint import load_segmenter
from mlla_seg.runtime.predictor import ArrayEngine

CONFIG = ROOT / "configs/demo.yaml"


@pytest.fixture
def options(phantom_root):
    return ["--config", CONFIG, f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]


def stopped(capsys, cli, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli(*arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error[error.index("error: ") :]


@pytest.mark.parametrize("ema", [False, True])
def test_a_training_that_diverges_stops_names_its_batch_and_keeps_what_was_saved(cli, capsys, options, ema):
    if ema:
        options += ["--trainer.callbacks=[{class_path: mlla_seg.training.ema.WarmEMA}]"]
    cli("fit", *options, "--trainer.max_epochs=1")
    saved = {path: path.read_bytes() for path in Path("runs").glob("**/*.ckpt")}
    assert {path.name for path in saved} == {"best.ckpt", "last.ckpt"}
    wild = ["--model.lr=1e30", "--model.warmup=0", "--trainer.max_epochs=3", "--ckpt_path=last"]
    message = stopped(capsys, cli, "fit", *options, *wild, "--trainer.gradient_clip_val=null")
    assert "The loss is nan at step" in message
    assert "Lower --model.lr, or set --trainer.gradient_clip_val 1." in message
    assert "case00" in message
    assert {path: path.read_bytes() for path in Path("runs").glob("**/*.ckpt")} == saved


def test_the_step_after_a_loss_that_is_no_number_is_not_taken(phantom_root, tmp_path):
    from lightning.pytorch import Trainer

    data = SegmentationDataModule(
        "phantom", str(phantom_root), 8, crop=[32, 32], num_workers=0, cache_dir=str(tmp_path / "cache")
    )
    module = SegmentationModule("mlla_test", spec=data.spec)
    whole, calls = module.loss.forward, []

    def loss(logits, mask):
        calls.append(1)
        return whole(logits, mask) * (torch.inf if len(calls) == 3 else 1)

    module.loss.forward = loss
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, **quiet)
    with pytest.raises(InputError, match="The loss is inf at step 2"):
        trainer.fit(module, data)
    assert trainer.global_step == 2
    assert all(value.isfinite().all() for value in module.network.state_dict().values())


def test_a_loss_names_each_case_once_and_not_too_many():
    require_finite_loss(1e30, 0, [])
    for loss in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(InputError, match=r"at step 7.*files of this batch: a, b$"):
            require_finite_loss(loss, 7, ["a", "b", "a"])
    with pytest.raises(InputError, match=r"0, 1, 2, 3, 4, 5, 6, 7, \.\.\. \(20 in all\)$"):
        require_finite_loss(float("nan"), 0, [str(k) for k in range(20)])


@pytest.mark.slow
def test_every_process_stops(phantom_root, tmp_path):
    options = ["--config", CONFIG, f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY, "--model.lr=1e30"]
    options += ["--model.warmup=0", "--trainer.gradient_clip_val=null", "--trainer.devices=2", "--trainer.strategy=ddp"]
    result = run_apart("fit", *options, "--trainer.max_epochs=2", ranks=2, folder=tmp_path)
    assert result.returncode == 2
    assert "The loss is nan" in result.stderr
    (line,) = {line for line in result.stderr.splitlines() if line.startswith("error: ")}  # the same of both
    assert len(line.split("batch: ")[1].split(", ")) > 4  # a process alone has four slices
    assert not list(tmp_path.glob("**/*.ckpt"))


def damaged(checkpoint, path, value=torch.nan):
    content = torch.load(checkpoint, weights_only=True)
    for name in ("network.head.weight", "network.encoder.stem.0.weight"):
        weights = content["state_dict"]
        name = name if name in weights else next(iter(weights))
        weights[name] = weights[name].clone()
        weights[name].view(-1)[0] = value
    torch.save(content, path)
    return path


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_not_loaded(cli, capsys, options, checkpoint, phantom_root, tmp_path, value):
    path = damaged(checkpoint, tmp_path / "bad.ckpt", value)
    expected = f"{path}: 2 of "
    for command in (
        ("predict", "--ckpt_path", path, "--input", phantom_root / "test_vol_h5", "--output", "masks"),
        ("test", *options, "--ckpt_path", path),
        ("fit", *options, "--ckpt_path", path),
        ("export", "--ckpt_path", path, "--output", "model.onnx"),
    ):
        message = stopped(capsys, cli, *command)
        assert expected in message
        assert "network" not in message.split("such as ")[1].split(":")[0]
        assert "Use an earlier checkpoint" in message
    assert not list(tmp_path.glob("masks/*"))


def test_folders_of_weights_that_are_no_numbers_are_not_loaded(checkpoint, tmp_path):
    segmenter = load_segmenter(checkpoint)
    torch.nn.init.constant_(segmenter.head.weight, torch.nan)
    segmenter.save_pretrained(tmp_path / "folder")
    with pytest.raises(InputError, match=r"folder: 1 of .* such as head\.weight: the training diverged"):
        load_segmenter(tmp_path / "folder")


def test_weights_that_are_numbers_pass():
    require_finite_weights("here", {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.long)}, "")


@pytest.mark.parametrize("wrap", [np.asarray, torch.as_tensor], ids=["array", "tensor"])
def test_logits_are_counted(wrap):
    require_finite_logits(wrap(np.float32([[1, -1e30]])))
    with pytest.raises(InputError, match="for 3 of 4 pixels"):
        require_finite_logits(wrap(np.float32([[1, np.nan], [np.inf, -np.inf]])))


def test_no_labels_are_made_of_logits_that_are_no_numbers():
    logits = torch.zeros(1, 3, 4, 4)
    logits[0, 0] = -torch.inf  # a class that cannot be
    labels_of(logits, dim=1)
    logits[0, 1, 2, 2] = torch.nan  # whichever class it is
    with pytest.raises(InputError, match="for 1 of 16 pixels"):
        labels_of(logits, dim=1)
    with pytest.raises(InputError, match="for 1 of 16 pixels"):
        ArrayEngine(None).labels(logits.numpy(), 1)


class _Overflowing(torch.nn.Module):
    """A network that overflows for values above 1,000."""

    def forward(self, x):
        return torch.cat([x, torch.where(x > 1000, torch.inf, -x)], dim=1)


SPEC = {"channels": ["grey"], "classes": ["background", "thing"], "patch_size": [32, 32]}


def test_images_without_a_mask_are_named_and_the_others_are_written(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    (tmp_path / "in").mkdir()
    for name, value in (("fine", 10), ("wild", 2000)):
        image = np.full((1, 40, 50), 5, np.float32)
        image[0, 30, 20] = value
        how = {"driver": "GTiff", "height": 40, "width": 50, "count": 1, "dtype": "float32", "crs": "EPSG:3857"}
        how["transform"] = rasterio.Affine(1, 0, 500, 0, -1, 500)
        with rasterio.open(tmp_path / f"in/{name}.tif", "w", **how) as file:
            file.write(image)
    predictor = Predictor(_Overflowing(), SPEC)
    with pytest.raises(InputError, match=r"wild\.tif: the network gives NaN or infinite logits for \d+ of \d+ pixels"):
        segment_files(predictor, tmp_path / "in", tmp_path / "out", MapOptions())
    assert [path.name for path in (tmp_path / "out").glob("*.tif")] == ["fine.tif"]


def test_volumes_without_a_mask_are_named_too(tmp_path):
    nib = pytest.importorskip("nibabel")
    (tmp_path / "in").mkdir()
    for name, value in (("fine", 10), ("wild", 2000)):
        volume = np.full((20, 20, 3), 5, np.int16)
        volume[3, 4, 2] = value
        nib.Nifti1Image(volume, np.eye(4)).to_filename(tmp_path / f"in/{name}.nii.gz")
    predictor = Predictor(_Overflowing(), SPEC)
    with pytest.raises(InputError, match=r"wild\.nii\.gz: the network gives NaN or infinite logits for 1 of"):
        segment_files(predictor, tmp_path / "in", tmp_path / "out", MapOptions(probabilities=True))
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["fine.nii.gz", "fine.probabilities.h5"]
    with pytest.raises(InputError, match="the network gives NaN or infinite logits"):
        predictor(np.full((1, 8, 8), 2000, np.float32))


def test_pixels_without_data_do_not_count():
    image = torch.full((1, 1, 100, 40), torch.nan)
    image[:, :, :20] = 5.0
    labels = predict_case(_Overflowing(), image, View(patch_size=(32, 32)))
    assert labels.shape == (1, 100, 40)
    image[0, 0, 3, 3] = 2000.0
    with pytest.raises(InputError, match="NaN or infinite"):
        predict_case(_Overflowing(), image, View(patch_size=(32, 32)))

"""Volumes as volumes by the commands of a user: fit, resume, test, predict, preview, check, and what is refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from conftest import ROOT, TINY, run_main
from mlla_seg.inference.cases import predict_case
from mlla_seg.models.checkpoint import load_segmenter
from recorder import Recorder

CONFIG = ["--config", str(ROOT / "configs/demo.yaml"), "--data.crop=[4,24,24]", "--data.balance=0.5"]
DEEP = ["--model.decoder=mlla_unet_fine", "--model.deep_supervision=true"]
SMALL = [*CONFIG, *TINY, *DEEP, "--data.batch_size=2", "--trainer.limit_val_batches=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, phantom_root):
    """Folder with a run of four steps, in ``runs/demo/version_0``."""
    folder = tmp_path_factory.mktemp("volumes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_main("fit", *SMALL, "--data.root", phantom_root, "--trainer.max_steps=4")
    return folder


@pytest.fixture
def checkpoint(folder):
    return folder / "runs/demo/version_0/checkpoints/last.ckpt"


def test_the_checkpoint_knows_its_axes_and_strides(checkpoint):
    network = load_segmenter(checkpoint)
    saved = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    assert saved["dims"] == network.spec.axes == 3
    assert network.spec.patch_size == (4, 24, 24)
    assert saved["strides"][0] == [1, 2, 2]  # slices of the phantom are far apart, and few
    assert network.strides == [int(np.prod([step[axis] for step in saved["strides"]])) for axis in range(3)]


def test_predictions_are_those_of_the_module(cli, folder, checkpoint, phantom_root, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    cli("test", *SMALL, "--data.root", phantom_root, "--ckpt_path", checkpoint, "--trainer.limit_test_batches=1")
    assert "mean" in capsys.readouterr().out
    rng = np.random.default_rng(0)
    image = rng.normal(0, 300, (30, 26, 7)).astype(np.float32)
    nib.Nifti1Image(image, np.diag([2.0, 2.0, 5.0, 1.0])).to_filename(folder / "case.nii.gz")
    cli("predict", "--ckpt_path", checkpoint, "--input", folder / "case.nii.gz", "--output", folder / "masks")
    found = np.asarray(nib.load(folder / "masks/case.nii.gz").dataobj)
    network = load_segmenter(checkpoint)
    np.testing.assert_array_equal(found, expected_mask(network, network.spec, image))


def expected_mask(network, spec, image):
    """The mask of an image as written, columns first."""
    axial = torch.from_numpy(image.transpose(2, 1, 0)[:, ::-1, ::-1].copy())  # rows to posterior, columns left
    labels = predict_case(network, axial[:, None], spec.view, (5.0, 2.0, 2.0)).numpy()
    return labels[:, ::-1, ::-1].transpose(2, 1, 0)


def test_flips_are_those_of_the_training_also_of_slices(cli, folder, checkpoint, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    image = np.random.default_rng(1).normal(0, 300, (24, 24, 4)).astype(np.float32)
    nib.Nifti1Image(image, np.diag([2.0, 2.0, 5.0, 1.0])).to_filename("flipped.nii.gz")
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["spec"]["mirrored"] = ["slices", "columns"]
    torch.save(content, "mirrored.ckpt")
    run = ("predict", "--tta=true", "--input=flipped.nii.gz", "--output=flipped")
    cli(*run, "--ckpt_path=mirrored.ckpt")
    found = np.asarray(nib.load("flipped/flipped.nii.gz").dataobj)
    network = load_segmenter(checkpoint)

    def averaged(x):
        return sum(network(x.flip(axes)).flip(axes) for axes in ([], [2], [4], [2, 4])) / 4

    np.testing.assert_array_equal(found, expected_mask(averaged, network.spec, image))
    assert (found != expected_mask(network, network.spec, image)).any()
    with pytest.raises(SystemExit):
        cli(*run, "--ckpt_path", checkpoint)
    assert (
        "without flips, so --tta would degrade its results. To use it, train with --data.mirror [slices,rows,columns]"
        in (capsys.readouterr().err)
    )


def test_strides_may_be_given_and_are_used(cli, phantom_root):
    strides = [[1, 2, 2], [1, 1, 2], [1, 2, 2], [1, 2, 2], [1, 1, 1]]
    options = [
        "--trainer.max_steps=1",
        f"--model.strides={strides}",
        "--trainer.callbacks=[{class_path: recorder.Recorder}]",
    ]
    cli("fit", *SMALL, "--data.root", phantom_root, *options)
    assert Recorder.module.hparams["strides"] == strides
    assert Recorder.module.network.strides == [1, 8, 16]


def test_a_resumed_run_keeps_its_strides_and_axes(cli, folder, phantom_root, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    resumed = [*SMALL, "--data.root", phantom_root, "--ckpt_path=last", "--trainer.max_steps=5"]
    cli("fit", *resumed, "--data.spacing_mm=[1,2,2]")
    saved = torch.load("runs/demo/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    assert saved["hyper_parameters"]["strides"][0] == [1, 2, 2]
    with pytest.raises(SystemExit):
        cli("fit", *resumed, "--data.crop=[24,24]")
    assert "was trained with dims 3, but the config gives 2" in capsys.readouterr().err


def test_patches_that_were_chosen_are_saved_and_stay(cli, phantom_root, capsys):
    chosen = ["--model.dims=3", "--data.crop=[24,24]"]
    cli("fit", *SMALL, *chosen, "--data.root", phantom_root, "--trainer.max_steps=1")
    assert "chosen from the median volume of 4 x 32 x 32; --data.crop" in capsys.readouterr().err
    config = yaml.safe_load(Path("runs/demo/version_0/config.yaml").read_text())
    assert (config["model"]["dims"], config["data"]["crop"]) == (3, [4, 32, 32])
    assert config["model"]["strides"][0] == [1, 2, 2]  # no file gives the spacing, but the phantom has few slices
    cli("fit", *SMALL, *chosen, "--data.root", phantom_root, "--trainer.max_steps=2", "--ckpt_path=last")
    saved = torch.load("runs/demo/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["spec"]["patch_size"] == [4, 32, 32]
    assert (saved["hyper_parameters"]["dims"], saved["global_step"]) == (3, 2)
    assert "chosen" not in capsys.readouterr().err


def test_samples_are_drawn_and_problems_listed(cli, phantom_root, capsys):
    cli("preview", *CONFIG[:2], "--data.crop=[4,24]", "--model.dims=3", "--data.root", phantom_root, "--samples=3")
    of_data_and_model = [option for option in SMALL if not option.startswith("--trainer")]
    cli("check", *of_data_and_model, "--data.root", phantom_root)
    printed = capsys.readouterr().out
    assert "3 of" in printed
    assert "Written: preview.png" in printed
    assert "0 errors" in printed


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["explain", "--input=case.nii.gz", "--output=e"], "sees volumes as volumes; explain draws"),
        (["test", *SMALL, "--evaluation=transunet"], "--evaluation transunet scores slices"),
    ],
)
def test_what_is_for_images_is_refused(cli, folder, checkpoint, phantom_root, capsys, command, message):
    root = ["--data.root", phantom_root] if command[0] == "test" else []
    with pytest.raises(SystemExit) as stop:
        cli(*command, *root, "--ckpt_path", checkpoint)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err

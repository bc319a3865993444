"""Checkpoints of earlier versions restore the same networks, in Python and on the command line."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer

from conftest import ROOT, TINY
from jobs import spec_of
from mlla_seg import SegmentationDataModule, SegmentationModule
from mlla_seg.errors import InputError
from mlla_seg.models.checkpoint import CHECKPOINT_KEY, flips_of, load_segmenter


def save(module, path, version, without=()):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path, weights_only=True)
    content = torch.load(path, weights_only=True)
    content[CHECKPOINT_KEY] = version
    for name in without:
        del content["hyper_parameters"][name]
    if version == "0.1.0":  # which knew neither
        spec = content["hyper_parameters"]["spec"]
        del spec["spec_version"]
        spec |= {"window": spec.pop("patch_size"), "ignore_index": 255}
    torch.save(content, path)
    return path


@pytest.fixture
def data(phantom_root, tmp_path):
    return SegmentationDataModule("phantom", str(phantom_root), crop=[32, 32], cache_dir=str(tmp_path / "cache"))


@torch.no_grad()
def test_networks_of_version_0_1_have_no_norms_on_their_maps(data, phantom_root, tmp_path, cli):
    module = SegmentationModule("mlla_test", "unet", norm_outputs=False, spec=data.spec).eval()
    path = save(module, tmp_path / "old.ckpt", "0.1.0", without=["norm_outputs"])
    x = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(load_segmenter(path)(x), module(x))
    assert load_segmenter(path).spec == data.spec
    options = [option for option in TINY if "decoder" not in option]  # whose config does not say it either
    options += [f"--data.root={phantom_root}", "--data.crop=[32,32]", "--model.decoder=unet"]
    cli("validate", "--config", ROOT / "configs/demo.yaml", *options, f"--ckpt_path={path}", "--distances=false")


def test_norms_stay_as_the_checkpoint_has_them(data, phantom_root, tmp_path, cli, capsys):
    path = save(SegmentationModule("mlla_test", "unet", spec=data.spec), tmp_path / "new.ckpt", "0.2.0")
    assert load_segmenter(path).encoder.norms[0].weight.shape == (8,)
    options = [*(option for option in TINY if "decoder" not in option), f"--data.root={phantom_root}"]
    options += ["--data.crop=[32,32]", "--model.decoder=unet", "--model.norm_outputs=false", f"--ckpt_path={path}"]
    cli("validate", "--config", ROOT / "configs/demo.yaml", *options, "--distances=false")
    assert f"note: norm_outputs is True, as in {path}" in capsys.readouterr().err


def test_flips_are_those_of_the_training_of_all_members():
    volumes = {"patch_size": [4, 8, 8]}
    both, other, none = (spec_of(mirrored=axes, **volumes) for axes in (["columns", "slices"], ["rows", "columns"], []))
    assert flips_of(["a.ckpt", "b.ckpt"], [both, both]) == ("slices", "columns")
    with pytest.raises(
        InputError, match=r"b\.ckpt: .* flips along rows, columns, a\.ckpt along slices, columns\. --tta"
    ):
        flips_of(["a.ckpt", "b.ckpt"], [both, other])
    for spec, advice in (
        (none, r"--data\.mirror \[slices,rows,columns\] or"),
        (spec_of(), r"aerial, .*\[rows,columns\]"),
    ):
        with pytest.raises(InputError, match=rf"b\.ckpt: was trained without flips, .* train with .*{advice}"):
            flips_of(["a.ckpt", "b.ckpt"], [both, spec])

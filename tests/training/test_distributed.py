"""Two processes train exactly like one with the same global batch, through the real command line."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import distributed, nn

from conftest import ROOT, TINY
from forks import run_apart
from mlla_seg.training.distributed import convert_batch_norm, sum_over_processes

VOLUMES = ["--data.crop=[4,16,16]", "--data.batch_size=4"]
VOLUMES += ["--model.decoder=mlla_unet_fine", "--model.deep_supervision=true"]
TOGETHER = ["--trainer.accumulate_grad_batches=2", "--model.checkpoint_stages=all"]
TOGETHER += ["--trainer.callbacks+=mlla_seg.training.ema.WarmEMA"]


def fit(folder: Path, root: Path, devices: int, *options: str) -> dict:
    """Train three deterministic steps in float64 and return the contents of the checkpoint."""
    folder.mkdir()
    command = ["fit", "--config", ROOT / "configs/demo.yaml", f"--data.root={root}", "--data.crop=[32,32]", *TINY]
    command += ["--data.augment=none", "--data.intensity=0"]
    command += [f"--trainer.devices={devices}", "--trainer.strategy=ddp", "--trainer.precision=64-true"]
    command += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3", *options]
    result = run_apart(*command, ranks=devices, folder=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return torch.load(folder / "runs/demo/version_0/checkpoints/last.ckpt", weights_only=True)


def final_scores(folder: Path) -> dict[str, str]:
    header, *rows = (folder / "runs/demo/version_0/metrics.csv").read_text().splitlines()
    row = next(row for row in reversed(rows) if row.split(",")[header.split(",").index("val/dice")])
    return {k: v for k, v in zip(header.split(","), row.split(","), strict=True) if k.startswith("val/")}


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], VOLUMES, TOGETHER], ids=["slices", "volumes", "together"])
def test_two_processes_equal_one(tmp_path, phantom_root, options):
    one = fit(tmp_path / "one", phantom_root, 1, *options)
    two = fit(tmp_path / "two", phantom_root, 2, *options)
    initial = fit(tmp_path / "initial", phantom_root, 1, "--model.lr=0", *options)
    assert one["state_dict"].keys() == two["state_dict"].keys()
    moved = 0
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(
            two["state_dict"][name], value, atol=1e-8, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
        moved += not torch.equal(initial["state_dict"][name], value)
    assert moved > 0.9 * len(one["state_dict"])
    assert final_scores(tmp_path / "one") == final_scores(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], VOLUMES], ids=["slices", "volumes"])
def test_sharded_weights_train_as_whole_ones(tmp_path, phantom_root, options):
    """With weight decay for the same tensors, and gradients clipped by the norm over all processes."""
    how = [*options, "--trainer.precision=32-true", "--trainer.gradient_clip_val=0.1", "--model.weight_decay=0.5"]
    whole = fit(tmp_path / "whole", phantom_root, 1, *how)
    fsdp = "--trainer.strategy={class_path: fsdp_on_cpu.CpuFSDP}"
    sharded = fit(tmp_path / "sharded", phantom_root, 2, *how, fsdp)
    assert whole["state_dict"].keys() == sharded["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        if value.ndim > 1:  # of biases before a batch norm, which have no gradient, AdamW enlarges the rounding
            near = dict(atol=2e-5, rtol=1e-3)
            torch.testing.assert_close(sharded["state_dict"][name], value, **near, msg=lambda m, n=name: f"{n}: {m}")


def test_one_process_sums_to_itself():
    x = torch.ones(2)
    assert sum_over_processes(x) is x


NORMS = [(nn.BatchNorm1d, (7,)), (nn.BatchNorm2d, (5, 4)), (nn.BatchNorm3d, (2, 3, 4)), (BatchNormAct2d, (5, 4))]


@pytest.fixture
def one_process(tmp_path):
    """A group of one process, in which batch norms are synchronised."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(("norm", "size"), NORMS)
def test_converted_batch_norm_is_the_same_in_one_process(norm, size):
    torch.manual_seed(0)
    plain, converted = nn.Sequential(norm(3)), nn.Sequential(norm(3))
    convert_batch_norm(converted)
    assert converted[0].forward.__func__ is not norm.forward
    x = torch.randn(4, 3, *size)
    torch.testing.assert_close(converted(x), plain(x))
    torch.testing.assert_close(converted.state_dict(), plain.state_dict())
    torch.testing.assert_close(copy.deepcopy(converted).eval()(x), plain.eval()(x))

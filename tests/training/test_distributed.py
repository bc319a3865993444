"""Two processes train exactly like one with the same global batch, through the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from conftest import ROOT, TINY
from forks import run_apart
from mlla_seg.training.distributed import CpuSyncBatchNorm, convert_batch_norm, sum_over_processes

VOLUMES = ["--data.crop=[4,16,16]", "--model.decoder=mlla_unet_fine", "--data.batch_size=4"]


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
@pytest.mark.parametrize("options", [[], VOLUMES], ids=["slices", "volumes"])
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


def test_one_process_sums_to_itself():
    x = torch.ones(2)
    assert sum_over_processes(x) is x


@pytest.mark.parametrize(("conv", "norm"), [(nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d)])
def test_converted_batch_norm_is_the_same_in_one_process(tmp_path, conv, norm):
    torch.manual_seed(0)
    plain, converted = (nn.Sequential(conv(2, 3, 1), norm(3)) for _ in range(2))
    converted.load_state_dict(plain.state_dict())
    convert_batch_norm(converted)
    assert type(converted[1]) is CpuSyncBatchNorm
    x = torch.randn(4, 2, 5, 5, 5) if conv is nn.Conv3d else torch.randn(4, 2, 5, 5)
    torch.testing.assert_close(converted(x), plain(x))
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        torch.testing.assert_close(converted(x), plain(x))
    finally:
        distributed.destroy_process_group()
    torch.testing.assert_close(converted.state_dict(), plain.state_dict())

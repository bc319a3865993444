"""The README's commands and code run as written, on tiny data in the default folders."""

from __future__ import annotations

import re
import shlex
import shutil

import numpy as np
import pytest
import torch

import layouts
from conftest import ROOT, TINY
from layouts import write_scene
from test_configs import CONFIGS

README = (ROOT / "README.md").read_text()
COMMANDS = list(dict.fromkeys(re.findall(r"python cli\.py [^`\n|]+", README)))
GO_ON = ("configs/demo.yaml", "configs/synapse.yaml")
"""Configs whose trained networks are used by later commands."""
STEPS = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.precision=32-true", *TINY]


@pytest.fixture
def workplace(cli, tmp_path):
    """A user's folder after downloading: configs, and every data set in its config's root."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for config in CONFIGS:
        root = tmp_path / layouts.root_of(config)
        if not root.exists() and root.name != "phantom":  # which a command of the README makes
            layouts.WRITERS[root.name](root)
    own = {f"data/mine/images/PAT{k}_T1.nii.gz": f"data/mine/masks/PAT{k}_seg.nii.gz" for k in range(14)}
    layouts.write_volumes(tmp_path, own, 3, ct=False)
    splits = ["train"] * 10 + ["val"] * 2 + ["test"] * 2
    (tmp_path / "cohort.csv").write_text("patient,set\n" + "".join(f"PAT{k},{splits[k]}\n" for k in range(14)))
    shutil.copytree(tmp_path / "data/mine/images", tmp_path / "new")
    return tmp_path


@pytest.mark.slow
def test_every_command_runs(workplace, cli, checkpoint, exported, phantom_root, monkeypatch):
    monkeypatch.setattr("mlla_seg.benchmark.command.PIXELS_PER_BATCH", 2 * 64**2)
    scene = write_scene(workplace / "scene.tif", np.zeros((1, 40, 50), np.int16))
    for command in COMMANDS:
        arguments = shlex.split(command)[2:]
        if arguments == ["export", "--ckpt_path", "best.ckpt", "--output", "model.onnx"]:
            assert exported.is_file()  # which the very same command wrote
            continue
        if arguments[:2] == ["fit", "--config"] and arguments[2:] not in (
            ["configs/demo.yaml"],
            ["configs/synapse.yaml"],
            ["mine"],
        ):
            assert ROOT / arguments[2] in CONFIGS  # these are fitted on their layouts there
            continue
        if arguments[0] == "pretrain":
            continue  # on images in class folders, in tests/pretraining
        if arguments[0] in ("fit", "test"):
            arguments += STEPS
        if "configs/potsdam.yaml" in arguments:
            arguments.append("--data.crop=[32,32]")
        if arguments[0] == "benchmark":
            arguments += [
                "--encoder=mlla_test",
                "--sizes=[64]",
                "--repeats=1",
                "--peers=false",
                "--engines=false",
                "--compile=false",
            ]
            arguments += ["--fix_malloc=false"]  # which would start this very process anew
        if arguments[0] == "phantom":
            arguments += ["--size=32", "--slices=2"]
        here = {
            **dict.fromkeys(("best.ckpt", "a.ckpt", "b.ckpt"), str(checkpoint)),
            "FILE_OR_FOLDER": str(phantom_root / "test_vol_h5"),
            "FOLDER": "masks",
            "scene.tif": str(scene),
        }
        cli(*[here.get(argument, argument) for argument in arguments])
    assert len(list((workplace / "predictions").glob("*.h5"))) == 4
    assert len(list((workplace / "masks").glob("*.h5"))) == 4
    assert (workplace / "map.tif").is_file()
    assert (workplace / "masks/statistics.csv").is_file()
    assert list(workplace.glob("runs/mine/*/report.html"))
    assert len(COMMANDS) >= 8


def test_python_example_runs(checkpoint, tmp_path, monkeypatch):
    from mlla_seg import MLLA

    code = "".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    monkeypatch.chdir(tmp_path)
    torch.save({"model": MLLA().state_dict()}, "mlla_t.pth")
    (tmp_path / "best.ckpt").write_bytes(checkpoint.read_bytes())
    names = {"image": np.zeros((2, 1, 32, 32), dtype=np.float32)}
    exec(code, names)  # the README's own code
    assert names["labels"].shape == (2, 32, 32)
    assert names["model"](torch.zeros(1, 4, 64, 64)).shape == (1, 7, 64, 64)
    assert sum(p.numel() for p in names["published"].parameters()) == 28_505_312


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_files_the_readme_links_to_exist():
    for path in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / path).is_file(), path

"""The tutorials work as they are written: their commands on tiny data, their Python as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import layouts
from conftest import ROOT, TINY
from mlla_seg import MLLA

PAGES = ROOT / "docs/tutorials"
FEW = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.precision=32-true"]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (PAGES / page).read_text(), flags=re.DOTALL)


def run_commands(page, cli, *options):
    """Runs every ``mlla-seg`` line of a page; training and tests with a tiny network."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] != ["mlla-seg"]:
            continue
        small = {"fit": [*TINY, *FEW, *options], "test": [*TINY, *options], "preview": [*options, "--samples=4"]}
        cli(*words[1:], *small.get(words[1], []))


@pytest.mark.slow
def test_a_folder_of_nifti_becomes_masks(cli, tmp_path):
    layouts.nnunet(tmp_path / "data/Dataset042_Kidney")
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "data/Dataset042_Kidney/imagesTr/scan_1_0000.nii.gz", tmp_path / "new")
    run_commands("medical.md", cli, "--data.crop=[32,32]")
    assert {"scan_1.nii.gz", "scan_1.seg.nrrd"} <= {path.name for path in Path("masks").iterdir()}


@pytest.mark.slow
def test_scenes_become_maps(cli, tmp_path):
    layouts.geotiff_pairs(tmp_path / "data/roofs")
    card, config = blocks("aerial.md", "yaml")
    (tmp_path / "cards/roofs").mkdir(parents=True)
    (tmp_path / "cards/roofs/dataset.yaml").write_text(card)
    (tmp_path / "roofs.yaml").write_text(config)
    (tmp_path / "new").mkdir()
    for target in ("scene.tif", "new/scene.tif"):
        shutil.copy(tmp_path / "data/roofs/scene 3.tif", tmp_path / target)
    run_commands("aerial.md", cli, "--data.crop=[32,32]")
    for name in ("map.tif", "map.gpkg", "maps/scene.tif", "maps/scene.geojson", "maps/scene.probabilities.tif"):
        assert Path(name).is_file(), name


def test_mlla_trains_in_an_smp_pipeline(monkeypatch, tmp_path):
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    torch.save({"model": MLLA().state_dict()}, "mlla_t.pth")
    names = {}
    for block in blocks("smp.md", "python")[:3]:  # ONNX of any size takes a minute: tests/plugins/test_smp.py
        exec(block, names)  # the page's own code
    assert torch.isfinite(names["loss"])
    assert names["model"](names["images"]).shape == (2, 7, 64, 64)

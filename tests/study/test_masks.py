"""The command compare with folders of masks that other programs made."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import layouts
from conftest import ROOT, TINY


@pytest.fixture
def config(tmp_path):
    layouts.hippocampus(tmp_path / "data", cases=8)
    text = f"data:\n  card: hippocampus\n  root: {tmp_path / 'data'}\n  crop: [64, 32]\n"
    (tmp_path / "config.yaml").write_text(text)
    return tmp_path / "config.yaml"


def write_masks(data, folder, change=lambda mask: mask):
    """Write changed copies of all true masks."""
    folder.mkdir()
    for path in (data / "labelsTr").glob("hippocampus_*.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj).copy()), image.affine), folder / path.name)
    return folder


def without_front(mask):
    mask[mask == 1] = 0
    return mask


def rows_of(folder):
    with (Path("compare_scores") / folder / "per_case.csv").open() as file:
        return list(csv.DictReader(file))


def test_two_folders_are_scored_against_the_truth_of_a_config(cli, config, tmp_path, capsys):
    right = write_masks(tmp_path / "data", tmp_path / "right")
    wrong = write_masks(tmp_path / "data", tmp_path / "wrong", without_front)
    cli("compare", "--runs", right, wrong, "--truth", config, "--metric", "hd95")
    printed = capsys.readouterr()
    assert "wrong and right: HD95 +" in printed.out and "no claim about the designs" in printed.out
    assert "belong to no case of the split" in printed.err, "masks of training cases"
    assert {(row["dice"], row["hd95"], row["unit"]) for row in rows_of("right") if row["class"] != "background"} == {
        ("1.0", "0.0", "mm")
    }
    assert {row["status"] for row in rows_of("wrong") if row["class"] == "anterior"} == {"missed"}
    summary = json.loads(Path("compare_scores/wrong/summary.json").read_text())
    assert summary["card"] == "hippocampus" and summary["split"] == "test"
    latex = Path("compare.tex").read_text()
    assert latex.count("\\\\\n") == 3 and "right & 1 & 0.0000 & reference" in latex and r"95 \% interval" in latex


def test_cases_without_a_mask_are_left_out_of_all(cli, config, tmp_path, capsys):
    right = write_masks(tmp_path / "data", tmp_path / "right")
    fewer = write_masks(tmp_path / "data", tmp_path / "fewer", without_front)
    cli("compare", "--runs", right, fewer, "--truth", config)
    gone = next(row["case"] for row in rows_of("fewer"))
    (fewer / f"{gone}.nii.gz").unlink()
    capsys.readouterr()
    cli("compare", "--runs", right, fewer, "--truth", config)
    printed = capsys.readouterr()
    assert f"such as {gone}" in printed.err
    assert "on the same" in printed.out


@pytest.mark.parametrize("kind", ["geometry", "values", "names", "config"])
def test_masks_that_cannot_be_scored_are_refused(cli, config, tmp_path, capsys, kind):
    change = {"geometry": lambda mask: mask[:-2], "values": lambda mask: mask + 7}.get(kind, lambda mask: mask)
    right = write_masks(tmp_path / "data", tmp_path / "right")
    other = write_masks(tmp_path / "data", tmp_path / "other", change)
    if kind == "names":
        for path in list(other.iterdir()):
            path.rename(other / f"x{path.name}")
    with pytest.raises(SystemExit):
        cli("compare", "--runs", right, other, *([] if kind == "config" else ["--truth", config]))
    said = {
        "geometry": "shape",
        "values": "hippocampus_",
        "names": "has the name of a case",
        "config": "--truth CONFIG",
    }
    assert said[kind] in capsys.readouterr().err


def test_masks_of_a_run_have_its_scores(cli, phantom_root, checkpoint, capsys):
    options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
    cli("test", *options, "--ckpt_path", checkpoint)
    run = next(Path("runs").rglob("per_case.csv")).parent
    cli("predict", "--ckpt_path", checkpoint, "--input", phantom_root / "test_vol_h5", "--output", "masks")
    for metric in ("dice", "hd95"):
        cli("compare", "--runs", run, "masks", "--metric", metric)
    keys = ("case", "patient", "class", "dice", "hd95", "nsd", "tp", "fp", "fn")
    with (run / "per_case.csv").open() as file:
        expected = [[row[key] for key in keys] for row in csv.DictReader(file)]
    assert [[row[key] for key in keys] for row in rows_of("masks")] == expected
    shutil.rmtree("compare_scores")

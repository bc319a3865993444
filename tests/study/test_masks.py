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


def write_organs(data, folder, inner="", names=("anterior", "Posterior"), overlap=0, only=None):
    """Write a folder per case with a binary mask per class, as TotalSegmentator does."""
    for path in (data / "labelsTr").glob("hippocampus_*.nii.gz"):
        image = nib.load(path)
        labels = np.asarray(image.dataobj)
        place = folder / path.name.removesuffix(".nii.gz") / inner
        place.mkdir(parents=True)
        for k, name in enumerate(names, 1):
            mask = (labels == k).astype(np.uint8)
            if k == 1 and overlap:
                mask[tuple(np.argwhere(labels == 2)[:overlap].T)] = 1
            nib.save(nib.Nifti1Image(mask, image.affine), place / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(np.zeros_like(mask), image.affine), place / "lung_upper_lobe_left.nii.gz")
    return folder


@pytest.mark.parametrize("inner", ["", "segmentations"])
def test_a_folder_per_case_with_a_mask_per_organ(cli, config, tmp_path, capsys, inner):
    right = write_masks(tmp_path / "data", tmp_path / "right")
    organs = write_organs(tmp_path / "data", tmp_path / "organs", inner, overlap=2)
    cases = len(list(organs.iterdir()))
    cli("compare", "--runs", right, organs, "--truth", config)
    said = capsys.readouterr().err
    assert {row["dice"] for row in rows_of("organs")} == {"1.0"}, "of two organs the one later in the card counts"
    scored = len({row["case"] for row in rows_of("organs")})
    assert f"{2 * scored} voxels in {scored} of {scored} cases" in said and "later in the card" in said
    assert "1 organs in" in said and "such as lung_upper_lobe_left; ignored" in said
    assert f"{cases - scored} masks in" in said and "no file of" not in said


def test_organs_that_are_missing_count_as_not_found(cli, config, tmp_path, capsys):
    right = write_masks(tmp_path / "data", tmp_path / "right")
    organs = write_organs(tmp_path / "data", tmp_path / "organs", names=["anterior"])
    cli("compare", "--runs", right, organs, "--truth", config)
    assert "no file of 1 of 2 classes, such as posterior, in any case: they count as not" in capsys.readouterr().err
    assert {row["status"] for row in rows_of("organs") if row["class"] == "posterior"} == {"missed"}
    shutil.rmtree(organs)
    whole = write_organs(tmp_path / "data", tmp_path / "organs")
    case = rows_of("organs")[0]["case"]
    (whole / case / "Posterior.nii.gz").unlink()
    cli("compare", "--runs", right, whole, "--truth", config)
    assert f"lacks 1 files of classes that other cases have, such as posterior of {case}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["values", "grid", "twice", "names"])
def test_organs_that_cannot_be_joined_are_refused(cli, config, tmp_path, capsys, kind):
    right = write_masks(tmp_path / "data", tmp_path / "right")
    organs = write_organs(tmp_path / "data", tmp_path / "organs", names=["x", "y"] if kind == "names" else ["anterior"])
    for place in organs.iterdir():
        path = place / "anterior.nii.gz"
        if kind == "twice":
            shutil.copy(path, place / "Anterior.nii.gz")
        elif kind != "names":
            array = np.asarray(nib.load(path).dataobj).copy()
            array[:3, 0, 0] = range(3)
            changed = {"values": array, "grid": array[:-1] > 0}[kind].astype(np.uint8)
            target = path if kind == "values" else place / "posterior.nii.gz"
            nib.save(nib.Nifti1Image(changed, nib.load(path).affine), target)
    with pytest.raises(SystemExit):
        cli("compare", "--runs", right, organs, "--truth", config)
    said = {
        "values": "anterior.nii.gz: has the values 0, 1, 2, expected 0 and one other",
        "grid": "posterior.nii.gz: its grid",
        "twice": "are both anterior",
        "names": "has the name of a class, such as anterior",
    }
    assert said[kind] in capsys.readouterr().err

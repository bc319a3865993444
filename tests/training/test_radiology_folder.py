"""A radiology folder with a table, from fit to the report by the command line, on real images."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from conftest import TINY

CARD = """name: mine
title: My study
modality: MR
channels: [T1]
classes:
  - {name: background, colour: [0, 0, 0]}
  - {name: anterior, colour: [230, 80, 70]}
  - {name: posterior, colour: [70, 160, 230]}
normalisation: {per_image: true}
layout:
  format: files
  patterns: ['images/(?P<case>.+)[.]nii[.]gz']
  mask: 'masks/{case}_seg.nii.gz'
  tree: images/ masks/
splits: {csv: cohort.csv, patient: ID, split: Set, fold: Fold}
exclude: {PAT03: motion artefact}
source: here
licence: none
"""
PAIRS = ["--data.splits.image=Bild", "--data.splits.mask=Maske", "--data.splits.patient=ID", "--data.splits.split=Set"]


@pytest.fixture
def radiology(real_data, tmp_path):
    """Volumes named as in a clinic, with a table as Excel saves it."""
    for folder in ("images", "masks", "card"):
        (tmp_path / folder).mkdir()
    rows = []
    for k, mask in enumerate(sorted((real_data / "hippocampus/labelsTr").glob("[!.]*"))[:16]):
        name = f"PAT{k + 1:02d}"
        shutil.copy(real_data / "hippocampus/imagesTr" / mask.name, tmp_path / f"images/{name}_T1.nii.gz")
        shutil.copy(mask, tmp_path / f"masks/{name}_T1_seg.nii.gz")
        split = "Training" if k < 4 else "Test"
        fold = k % 2 + 1 if k < 4 else ""
        files = [f"images\\{name}_T1.nii.gz", f"masks\\{name}_T1_seg.nii.gz"]
        rows.append([name, split, fold, "GE" if k % 2 else "Siemens", *files])
    with (tmp_path / "cohort.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["ID", "Set", "Fold", "Scanner", "Bild", "Maske"], *rows])
    (tmp_path / "card/dataset.yaml").write_text(CARD)
    return tmp_path


def test_from_a_table_to_scores_of_subgroups(radiology, cli, capsys):
    options = ["--data.card=card", "--data.root=.", "--data.crop=[64,64]", *TINY]
    cli("fit", *options, "--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--data.fold=2")
    said = capsys.readouterr()
    assert "1 of 16 cases of mine are excluded: PAT03_T1 (motion artefact)" in said.err
    assert "1 training, 2 validation and 12 test cases" in said.out
    checkpoint = radiology / "runs/mine/version_0/checkpoints/last.ckpt"
    assert b"PAT" not in checkpoint.read_bytes()
    cli("test", *options, "--ckpt_path=last", "--data.fold=2", "--distances=false", "--data.exclude.PAT16=no consent")
    folder = radiology / "runs/mine/version_1"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["excluded"] == {"PAT03_T1": "motion artefact", "PAT16_T1": "no consent"} and summary["folds"] == 2
    scanners = summary["subgroups"]["Scanner"]
    assert {name: group["cases"] for name, group in scanners.items()} == {"GE": 5, "Siemens": 6}
    rows = list(csv.DictReader((folder / "per_case.csv").read_text().splitlines()))
    dice = [float(row["dice"]) for row in rows if row["Scanner"] == "GE" and row["class"] == "anterior"]
    assert scanners["GE"]["dice"]["anterior"]["mean"] == pytest.approx(sum(dice) / 5)
    groups = csv.DictReader((folder / "subgroups.csv").read_text().splitlines())
    assert {row["group"] for row in groups} == {"GE", "Siemens"}
    page = (folder / "report.html").read_text()
    assert "Scores of subgroups" in page and "Siemens" in page and "motion artefact" in page


def test_a_list_of_pairs_from_the_command_line(radiology, cli, capsys):
    columns = ["--data.splits.csv=cohort.csv", *PAIRS, '--data.splits.columns=["Scanner"]']
    cli("preview", "--data.card=card", "--data.root=.", "--data.crop=[32,32]", *columns, "--output=sheet.png")
    assert (radiology / "sheet.png").is_file()
    assert "1 of 16 cases of mine are excluded: PAT03_T1" in capsys.readouterr().err

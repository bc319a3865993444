"""Cross-validation folds in one table, and the checks against mixing them up."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import pytest

import layouts
from conftest import ROOT, TINY
from mlla_seg import SegmentationDataModule
from mlla_seg.errors import InputError
from mlla_seg.evaluation import tables
from mlla_seg.evaluation.fold_summary import folds

DICE = {0: {"a": 0.9, "b": 0.7}, 1: {"c": 0.5}, 2: {"d": math.nan, "e": 0.8}}


def write_fold(runs: Path, version: int, fold: int, dice: dict[str, float], **other: object) -> Path:
    folder = runs / f"version_{version}"
    rows = []
    for case, value in dice.items():
        rows.append({"case": case, "class": "background", "dice": 1.0, "hd95": math.nan})
        rows.append({"case": case, "class": "liver", "dice": value, "hd95": 10 * value})
    tables.write_csv(folder / "per_case.csv", rows)
    content = {"card": "x", "folds": 3, "unit": "mm", "nsd_tolerance": 2.0, "background": "background", "split": "val"}
    tables.write_json(folder / "summary.json", {**content, "fold": fold, **other})
    os.utime(folder / "summary.json", (version, version))
    return folder


@pytest.fixture
def runs(tmp_path):
    for fold, dice in DICE.items():
        write_fold(tmp_path / "runs", fold + 1, fold, dice)
    return tmp_path / "runs"


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_has_each_fold_their_deviation_and_all_cases(cli, capsys, runs):
    write_fold(runs, 0, 1, {"c": 0.1})  # an older scoring of fold 1
    write_fold(runs, 9, 1, {"c": 0.1}, split="test")  # not what was held out
    cli("folds", "--runs", runs)
    liver, mean = read_csv(runs / "folds.csv")
    assert [float(liver[f"fold {k}"]) for k in range(3)] == pytest.approx([0.8, 0.5, 0.8])
    assert float(liver["dice"]) == pytest.approx((0.9 + 0.7 + 0.5 + 0.8) / 4)  # over cases, not over folds
    assert float(liver["hd95"]) == pytest.approx(7.25)
    assert float(liver["sd of folds"]) == pytest.approx(0.1732, abs=1e-4)
    assert mean["class"] == "mean"
    assert float(mean["dice"]) == pytest.approx(0.725)
    assert len(read_csv(runs / "per_case.csv")) == 10
    assert "5 cases in 3 folds, distances in mm" in capsys.readouterr().out


def write_fold_of_scanners(runs, fold, scanners, **more):
    """A fold with two cases of each patient, all of one scanner for each patient."""
    rows = []
    for patient, scanner in scanners.items():
        for visit in (1, 2):
            row = {"case": f"{patient}_{visit}", "patient": patient, "class": "liver", "dice": 0.5 + 0.1 * visit}
            row |= {"dice": row["dice"] + (0.2 if scanner == "GE" else 0), "tp": 1, "fp": 1, "fn": 1}
            rows.append({**row, "scanner": scanner, **more})
    folder = write_fold(runs, fold, fold, {"x": 0.5})
    tables.write_csv(folder / "per_case.csv", rows)
    return folder


def test_subgroups_are_those_of_the_cases_of_all_folds(cli, capsys, tmp_path):
    """No fold has enough cases of a scanner, all folds together have."""
    runs = tmp_path / "runs"
    for fold in range(3):
        write_fold_of_scanners(runs, fold, {f"p{fold}": "GE", f"q{fold}": "Siemens"})
    cli("folds", "--runs", runs)
    printed = capsys.readouterr().out
    found = {row["group"]: row for row in read_csv(runs / "subgroups.csv") if row["class"] == "liver"}
    assert (found["GE"]["cases"], found["GE"]["patients"], found["GE"]["column"]) == ("6", "3", "scanner")
    assert float(found["GE"]["mean"]) == pytest.approx(0.85) and float(found["Siemens"]["mean"]) == pytest.approx(0.65)
    assert float(found["GE"]["sd"]) == pytest.approx(0.0548, abs=1e-4)
    assert float(found["GE"]["low"]) == float(found["GE"]["high"]) == pytest.approx(0.85)  # all patients are alike
    assert "Siemens" in printed and "bootstrap over 6 patients" in printed and "subgroups.csv" in printed
    (scores,) = [row for row in read_csv(runs / "scores.csv") if row["class"] == "mean"]
    assert float(scores["mean"]) == pytest.approx(0.75) and scores["cases"] == "12"
    assert float(scores["low"]) < 0.75 < float(scores["high"])
    assert "liver & 0.7500 (" in (runs / "scores.tex").read_text()


def test_folds_with_other_columns_are_refused(tmp_path):
    for fold in range(3):
        write_fold_of_scanners(tmp_path, fold, {f"p{fold}": "GE"}, **({"hd95_area": 1.0} if fold == 2 else {}))
    with pytest.raises(
        InputError, match=r"version_2: per_case\.csv differs from .*version_0 by 1 columns, such as hd95_a"
    ):
        folds(str(tmp_path))


def test_folds_that_cannot_be_put_together_are_refused(runs, tmp_path):
    with pytest.raises(InputError, match=r"contains no scored folds; score each with: python cli\.py validate"):
        folds(str(tmp_path / "nothing"))
    folder = write_fold(runs, 9, 1, {"c": 0.5}, unit="voxel")
    with pytest.raises(InputError, match=r"version_9: unit is voxel, but in .*version_1 it is mm"):
        folds(str(runs))
    write_fold(runs, 9, 1, {"a": 0.5})
    with pytest.raises(InputError, match="version_9: a is also in fold 0"):
        folds(str(runs))
    (folder / "per_case.csv").unlink()
    with pytest.raises(InputError, match=r"per_case\.csv is missing"):
        folds(str(runs))
    for path in runs.glob("version_[29]/summary.json"):
        path.unlink()
    with pytest.raises(InputError, match="folds 1 of 3 are not scored"):
        folds(str(runs))


def test_cross_validation_from_the_command_line(cli, capsys, phantom_root):
    """Every patient outside the test split is held out once, by a network that was not trained on it."""
    options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
    options += ["--data.folds=2"]
    for fold in (0, 1):
        short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
        cli("fit", *options, f"--data.fold={fold}", *short)
    for fold in (0, 1):  # the newest checkpoint is of fold 1, "last" means the newest of the fold
        cli("validate", *options, f"--data.fold={fold}", "--ckpt_path=last")
    capsys.readouterr()
    cli("folds", "--runs=runs/demo")
    assert "12 cases in 2 folds, distances in voxel" in capsys.readouterr().out
    cases = {row["case"]: row["fold"] for row in read_csv(Path("runs/demo/per_case.csv"))}
    assert set(cases) == {f"case{n:04d}" for n in range(1, 13)}
    assert sorted(cases.values()) == ["0"] * 6 + ["1"] * 6
    for arguments, problem in (
        (
            ["--data.fold=0", "--ckpt_path=runs/demo/version_1/checkpoints/last.ckpt"],
            "was trained on 6 of the patients to be scored, such as 00",
        ),
        (["--ckpt_path=last"], "No checkpoint below"),
        (["--data.fold=2", "--ckpt_path=last"], "No checkpoint of fold 2 below"),
    ):
        with pytest.raises(SystemExit):
            cli("validate", *options, *arguments)
        assert problem in capsys.readouterr().err
    both = [f"runs/demo/version_{k}/checkpoints/last.ckpt" for k in (0, 1)]
    with pytest.raises(SystemExit):
        cli("validate", *options, "--data.fold=0", "--ckpt_path", *both)
    assert "version_1/checkpoints/last.ckpt: was trained on 6 of" in capsys.readouterr().err
    cli("test", *options, "--ckpt_path", *both)  # neither has seen the test split


def test_a_case_that_moved_to_the_test_split_is_not_scored(cli, capsys, tmp_path):
    """A random split depends on the patients present; a checkpoint records those it was trained on."""
    layouts.nnunet(tmp_path / "data")
    options = ["--data.root=data", "--data.crop=[32,32]", *TINY]

    def splits():
        return SegmentationDataModule(root="data", crop=[32, 32]).splits

    cli("fit", *options, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    learned = {case.patient for case in splits().train}
    for path in sorted((tmp_path / "data/labelsTr").iterdir()):  # whose loss changes the draw
        path.rename(tmp_path / path.name)
        if {case.patient for case in splits().test} & learned:
            break
        (tmp_path / path.name).rename(path)
    with pytest.raises(SystemExit):
        cli("test", *options, "--ckpt_path=last")
    assert "of the patients to be scored" in capsys.readouterr().err


def test_folds_scored_in_different_ways_or_damaged_are_refused(runs):
    write_fold(runs, 9, 1, {"c": 0.5}, **{"test-time augmentation": True})
    with pytest.raises(InputError, match=r"version_9: test-time augmentation is True, but in .* it is None"):
        folds(str(runs))
    (runs / "version_9/summary.json").write_text("{")
    with pytest.raises(InputError, match=r"summary\.json is not valid JSON"):
        folds(str(runs))

"""Scores with their spread as people publish them: the same numbers in every table."""

from __future__ import annotations

import csv
import math

import pytest
import torch

from mlla_seg.evaluation.plots import outliers
from mlla_seg.evaluation.score_tables import explanation, spread_table, write_scores_csv, write_scores_latex
from mlla_seg.evaluation.scores import Evaluation

CASES = ["p1_a", "p1_b", "p2_a", "p3_a"]
PATIENTS = ["p1", "p1", "p2", "p3"]


@pytest.fixture
def scores():
    """Dice of ``left_&_right`` is 0.8, 0.6, 0.5 and 1; ``none`` is nowhere."""
    confusion = torch.zeros(4, 3, 3, dtype=torch.int64)
    confusion[:, 1, 1] = torch.tensor([8, 6, 5, 9])
    confusion[:, 1, 0] = torch.tensor([4, 8, 10, 0])
    surfaces = torch.full((4, 3, 3), math.nan)
    surfaces[:, 1] = torch.tensor([[2.0, 1, 0.5]]).repeat(4, 1)
    return Evaluation(
        CASES, ["rest", "left_&_right", "none"], 0, confusion, surfaces, unit="mm", patients=PATIENTS
    ).by_case


def test_terminal_table_has_mean_interval_and_quartiles(scores):
    header, rows = spread_table(scores, "dice")
    assert header == ["Dice", "mean", "95% interval", "SD", "median", "quartiles", "cases"]
    assert [row[0] for row in rows] == ["left_&_right", "none", "mean"]
    assert rows[0][1] == pytest.approx(0.725)
    assert rows[0][4] == pytest.approx(0.7)
    assert rows[0][5] == "0.5750 to 0.8500"
    assert rows[0][6] == 4
    low, high = map(float, rows[0][2].split(" to "))
    assert 0 <= low < 0.725 < high <= 1
    assert rows[1][2] == rows[1][5] == "-" and rows[1][6] == 0
    assert "4 cases" in explanation(scores) and "3 patients" in explanation(scores)


def test_csv_has_every_score_and_class(scores, tmp_path):
    write_scores_csv(tmp_path / "scores.csv", scores)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = {(row["score"], row["class"]): row for row in csv.DictReader(file)}
    assert len(rows) == 7 * 3
    dice, hd95 = rows["dice", "left_&_right"], rows["hd95", "mean"]
    assert float(dice["mean"]) == pytest.approx(0.725)
    assert float(dice["first_quartile"]) == pytest.approx(0.575)
    assert (float(hd95["mean"]), float(hd95["low"]), float(hd95["high"])) == (2, 2, 2)
    assert rows["dice", "none"]["mean"] == "" and rows["dice", "none"]["cases"] == "0"


def test_latex_is_escaped_and_complete(scores, tmp_path):
    write_scores_latex(tmp_path / "scores.tex", scores)
    lines = (tmp_path / "scores.tex").read_text().splitlines()
    assert lines[0].startswith("% SD, median and quartiles over 4 cases; 95% interval")
    assert lines[1] == r"\begin{tabular}{lccccccc}"
    assert lines[2:5] == [r"\toprule", lines[3], r"\midrule"]
    assert lines[3].startswith(r"class & Dice & IoU & precision & recall & HD95 mm & ASSD mm & NSD 2 mm")
    assert lines[5].startswith(r"left\_\&\_right & 0.7250 (0.")
    assert lines[5].count("&") - 1 == 7 and lines[5].endswith(r"\\")
    assert lines[6].startswith("none & - & -")
    assert lines[7] == r"\midrule" and lines[8].startswith("mean & 0.7250 (")
    assert lines[9:] == [r"\bottomrule", r"\end{tabular}"]


def test_outliers_are_named_farthest_first():
    scores = [(0.9 + 0.01 * i, str(i)) for i in range(8)] + [(0.6, "near"), (0.3, "far")]
    assert outliers(scores) == [(0.3, "far"), (0.6, "near")]
    assert outliers([(0.5, "a"), (0.5, "b")]) == outliers([]) == []

"""Subgroups by what a table says about cases: how they are formed, and their scores."""

from __future__ import annotations

import json

import pytest
import torch

from mlla_seg.evaluation import tables
from mlla_seg.evaluation.report import score_table, summary
from mlla_seg.evaluation.scores import Evaluation
from mlla_seg.evaluation.subgroups import LEAST, groups_of, subgroup_rows, subgroups

AGES = [str(20 + n) for n in range(12)]


@pytest.fixture
def evaluation():
    confusion = torch.stack([torch.tensor([[50, n], [0, 10]]) for n in range(12)])
    scanners = ["GE"] * 5 + ["Siemens"] * 6 + ["Philips"]
    facts = [{"scanner": scanner, "age": age, "dice": "x"} for scanner, age in zip(scanners, AGES, strict=True)]
    names = [f"c{n}" for n in range(12)]
    return Evaluation(names, ["rest", "organ"], 0, confusion, patients=[f"p{n // 2}" for n in range(12)], facts=facts)


def test_texts_few_numbers_and_thirds():
    assert groups_of(["b", "a", "", "b"]) == {"a": [1], "b": [0, 3], "(not given)": [2]}
    assert list(groups_of(["3", "1.5", "3", "10"])) == ["1.5", "3", "10"]
    assert groups_of(AGES) == {"20 to 23": [0, 1, 2, 3], "24 to 27": [4, 5, 6, 7], "28 to 31": [8, 9, 10, 11]}
    assert list(groups_of(["1,5", "2", "2,5", "3", "4", "5,5"])) == ["1.5 to 2", "2.5 to 3", "4 to 5.5"]
    assert sorted(i for chosen in groups_of(["7"] * 9 + list("123456")).values() for i in chosen) == list(range(15))


def test_scores_of_a_group_are_those_of_its_cases(evaluation):
    found = {(entry.column, entry.group): entry for entry in subgroups(evaluation.by_case)}
    ge = found["scanner", "GE"]
    expected = sum(20 / (20 + n) for n in range(5)) / 5
    assert ge.spreads["dice"]["organ"].mean == pytest.approx(expected)
    low, high = ge.spreads["dice"]["mean"].low, ge.spreads["dice"]["mean"].high
    assert low < expected < high and (ge.cases, ge.patients) == (5, 3)
    assert found["scanner", "Philips"].cases < LEAST and not found["scanner", "Philips"].spreads
    assert not any(column in ("age", "dice") for column, _ in found)  # thirds of 4 cases, one value


def test_subgroups_are_in_every_result(evaluation, tmp_path):
    content = summary(evaluation, "test", {"excluded": {"c99": "blurred"}})
    tables.write_json(tmp_path / "summary.json", content)
    saved = json.loads((tmp_path / "summary.json").read_text())["subgroups"]["scanner"]
    assert (
        saved["GE"]["cases"] == 5
        and saved["GE"]["dice"]["organ"]["sd"] > 0
        and saved["Philips"]
        == {
            "cases": 1,
            "patients": 1,
        }
    )
    rows = subgroup_rows(subgroups(evaluation.by_case))
    assert {row["group"] for row in rows} == {"GE", "Siemens"} and {"column", "class", "low", "sd"} <= set(rows[0])
    text = score_table(evaluation)
    assert "Siemens" in text and "No groups by age, dice" in text
    assert evaluation.rows()[0]["dice (table)"] == "x" and evaluation.rows()[0]["scanner"] == "GE"

"""Splits by lists, fractions and folders; cross-validation folds: by patient, reproducible, or from nnU-Net's file."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from mlla_seg.data.card import load_card
from mlla_seg.data.cases import Case
from mlla_seg.data.folds import fold_cases, number_of_folds
from mlla_seg.data.splits import split_cases
from mlla_seg.errors import InputError

CASES = [Case(f"p{n:02d}_{frame}", f"p{n:02d}", ()) for n in range(11) for frame in "ab"]


@pytest.fixture
def card():
    return replace(load_card("hippocampus"), splits={"seed": 0, "val": 0.1, "test": 0.2})


def names(cases):
    return {case.name for case in cases}


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_patient_outside_the_test_split_is_held_out_once(card, tmp_path, folds):
    dealt = [fold_cases(card, CASES, tmp_path, fold, folds) for fold in range(folds)]
    test = names(dealt[0].test)
    assert len(test) == 2 * 2
    held_out = [names(split.val) for split in dealt]
    assert set().union(*held_out) == names(CASES) - test
    assert sum(map(len, held_out)) == len(CASES) - len(test)
    assert max(map(len, held_out)) - min(map(len, held_out)) <= 2  # one patient of two cases
    for split in dealt:
        assert names(split.test) == test
        assert names(split.train) == names(CASES) - test - names(split.val)
        assert not {case.patient for case in split.train} & {case.patient for case in split.val}


def test_folds_stay_the_same_for_good_and_do_not_depend_on_the_order_of_files(card, tmp_path):
    first = names(fold_cases(card, CASES, tmp_path, 0, 5).val)
    assert first == names(fold_cases(card, CASES[::-1], tmp_path, 0, 5).val) == {"p02_a", "p02_b", "p07_a", "p07_b"}


def test_folds_of_nnunet_decide(card, tmp_path, capsys):
    folds = [{"train": ["p00_a", "p00_b", "p01_a", "gone"], "val": ["p02_a"]}, {"train": ["p02_a"], "val": ["p00_a"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    split = fold_cases(card, CASES, tmp_path, 0, 5)
    assert names(split.train) == {"p00_a", "p00_b", "p01_a", "p01_b"}  # a patient is in one split with all cases
    assert names(split.val) == {"p02_a", "p02_b"}
    assert {case.patient for case in split.test} == {f"p{n:02d}" for n in range(3, 11)}
    assert "1 of 4 cases of train" in capsys.readouterr().err
    assert number_of_folds(tmp_path, 5) == 2
    with pytest.raises(InputError, match=r"has 2 folds: --data\.fold must be from 0 to 1, got 2"):
        fold_cases(card, CASES, tmp_path, 2, 5)
    folds[0]["val"].append("p01_b")
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    split = fold_cases(card, CASES, tmp_path, 0, 5)  # patients by the names of files are a guess
    assert (names(split.train), names(split.val)) == ({"p00_a", "p00_b", "p01_a"}, {"p02_a", "p01_b"})
    assert re.search(
        r"splits_final\.json puts 1 patients into both train and val, such as p01", capsys.readouterr().err
    )
    declared = replace(card, layout=replace(card.layout, patient="p[0-9]+"))
    with pytest.raises(InputError, match="patient p01 is in both train and val"):
        fold_cases(declared, CASES, tmp_path, 0, 5)


@pytest.mark.parametrize("text", ['{"train": []}', '[{"train": ["a"]}]', "[3]"])
def test_file_of_folds_that_cannot_be_used_is_named(card, tmp_path, text):
    (tmp_path / "splits_final.json").write_text(text)
    with pytest.raises(InputError, match=r"splits_final\.json: expected a list of \{train"):
        fold_cases(card, CASES, tmp_path, 0, 5)


@pytest.mark.parametrize(
    ("fold", "folds", "problem"),
    [
        (5, 5, r"--data\.fold must be from 0 to 4 with --data\.folds 5, got 5"),
        (-1, 5, "got -1"),
        (0, 1, "cannot form 1 folds"),
        (0, 40, "9 patients outside the test split cannot form 40 folds"),
    ],
)
def test_folds_that_do_not_exist_are_refused(card, tmp_path, fold, folds, problem):
    with pytest.raises(InputError, match=problem):
        fold_cases(card, CASES, tmp_path, fold, folds)


def listing(tmp_path, **files):
    """A card with split lists of these bytes."""
    for split, content in files.items():
        (tmp_path / f"{split}.txt").write_bytes(content)
    splits = {split: f"{split}.txt" for split in files}
    return replace(load_card("hippocampus"), folder=tmp_path, splits=splits)


@pytest.mark.parametrize(
    "content",
    [
        b"p00\np01\n",
        b"\xef\xbb\xbfp00\r\n\r\n  p01  \r\n",
        b"# patients\rp00 # first\rp01",
        "p00\r\np01\r\n".encode("utf-16"),
    ],
)
def test_lists_are_read_as_editors_save_them(tmp_path, content):
    split = split_cases(listing(tmp_path, train=content, test=b"p02"), CASES)
    assert names(split.train) == {"p00_a", "p00_b", "p01_a", "p01_b"}


@pytest.mark.parametrize("content", [b"", b"\r\n\r\n", b"\xef\xbb\xbf", b"# none yet\n  # still none\n"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_lists_without_a_patient_are_refused(tmp_path, content, split):
    card = listing(tmp_path, **{"train": b"p00", split: content})
    with pytest.raises(InputError, match=rf"{split}\.txt: names no patient\. Put one on each line, or remove {split}"):
        split_cases(card, CASES)


def test_names_with_a_number_sign_are_no_comment(tmp_path):
    cases = [Case(name, name, ()) for name in ("tile#1", "tile#2")]
    split = split_cases(listing(tmp_path, train=b"tile#1  #comment\n", val=b"tile#2"), cases)
    assert names(split.train) == {"tile#1"}


def test_cases_in_no_list_and_names_without_a_case_are_said(tmp_path, capsys):
    split_cases(listing(tmp_path, train=b"p00\ngone", val=b"p01"), CASES[:8])
    said = capsys.readouterr().err
    assert "note: 1 of 2 patients of split train are missing: gone" in said
    assert "note: 4 of 8 cases of hippocampus are in no split list and are left out: p02_a, p02_b, p03_a, p03_b" in said


def test_lists_of_other_names_than_the_datas_are_shown_beside_them(tmp_path):
    with pytest.raises(InputError, match=r"none of them .* of the card: it lists p00\.png, the data have p00\."):
        split_cases(listing(tmp_path, train=b"p00.png"), CASES)


def test_cases_inside_and_outside_of_split_folders_are_refused(card):
    cases = [Case("a", "a", (), split="train"), Case("b", "b", (), split="test"), Case("c", "c", ())]
    with pytest.raises(InputError, match=r"2 of 3 cases lie in folders that name their split, such as a, .* such as c"):
        split_cases(card, cases)


def test_fractions_that_give_no_case_are_said(card, capsys):
    split_cases(card, CASES[:4])
    assert "2 patients are too few to divide: split test of hippocampus has no case" in capsys.readouterr().err
    split_cases(card, [Case("a", "a", (), split="train"), Case("b", "b", (), split="test")])
    said = capsys.readouterr().err
    assert "none is for val, so it has no case; val: 0.1 of the card is not used" in said and "for test" not in said
    with pytest.raises(InputError, match=r"val: 0\.4 and test: 0\.5 of 3 patients leave none to train on"):
        split_cases(replace(card, splits={"seed": 0, "val": 0.4, "test": 0.5}), CASES[:6])
    with pytest.raises(ValueError, match=r"val: 0\.6 and test: 0\.5 of splits leave nothing to train on"):
        replace(card, splits={"seed": 0, "val": 0.6, "test": 0.5})

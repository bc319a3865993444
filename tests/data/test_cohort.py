"""Splits, folds and further columns of a table: how rows find their cases, and what is refused or said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlla_seg.data.card import load_card
from mlla_seg.data.cases import Case
from mlla_seg.data.cohort import with_cohort
from mlla_seg.data.folds import fold_cases, number_of_folds
from mlla_seg.data.splits import split_cases
from mlla_seg.errors import InputError

SPLITS = {"csv": "cohort.csv", "patient": "id", "split": "set"}
HEADER = "id,set,scanner\n"


@pytest.fixture
def cohort(tmp_path):
    """Write a table and return the cases that it describes, and the card."""

    def joined(text, names, splits=SPLITS, patient=None, patients=()):
        (tmp_path / "cohort.csv").write_text(text)
        card = load_card("image_folder")
        layout = replace(card.layout, patient=patient)
        card = replace(card, folder=tmp_path / "elsewhere", splits=splits, layout=layout)  # the table is in the root
        owners = dict(zip(names, patients or names, strict=True))
        cases = [Case(name, owners[name], ((tmp_path / f"images/{name}.png",),)) for name in names]
        return with_cohort(card, tmp_path, cases), card

    return joined


def by_name(cases, what):
    return {case.name: getattr(case, what) for case in cases}


def test_patients_are_found_by_the_start_of_names(cohort, capsys):
    text = HEADER + "PAT1, Training ,GE\nPAT11,DEV,\nPAT2,holdout,Philips\n"
    cases, card = cohort(text, ["PAT1_T1", "PAT11_T1", "PAT11_T2", "PAT2-T1"])
    assert by_name(cases, "patient") == {"PAT1_T1": "PAT1", "PAT11_T1": "PAT11", "PAT11_T2": "PAT11", "PAT2-T1": "PAT2"}
    assert [case.facts["scanner"] for case in cases] == ["GE", "", "", "Philips"]
    splits = split_cases(card, cases)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [1, 2, 1]
    assert "4 of 4 cases are assigned to the patient of" in capsys.readouterr().err


def test_names_that_only_contain_a_patient_are_not_taken_for_it(cohort):
    with pytest.raises(InputError, match=r"none of its 2 rows is about a case .* id has names such as 1, .* as p7_1"):
        cohort(HEADER + "1,train,\n2,test,\n", ["p7_1", "p7_2", "p12"])


def test_an_expression_for_patients_comes_first(cohort):
    cases, _ = cohort(HEADER + "s,train,\n7,test,\n", ["s_7", "t_7"], patient="[0-9]+", patients=["7", "7"])
    assert by_name(cases, "split") == {"s_7": "test", "t_7": "test"}


@pytest.mark.parametrize("cell", ["images/town 1.png", "images\\town 1.png", "town 1.PNG", "town 1", "./images/town 1"])
def test_cases_are_found_by_name_or_file(cohort, cell):
    cases, _ = cohort(
        f"file,set\n{cell},train\n", ["town 1", "town 2"], {"csv": "cohort.csv", "image": "file", "split": "set"}
    )
    assert by_name(cases, "split") == {"town 1": "train"}


def test_what_is_left_out_is_said_with_one_name(cohort, capsys):
    text = HEADER + "a,train,\nb,,\n,test,\nc,test,\nc,test,\ngone,val,\n"
    cases, _ = cohort(text, ["a", "b", "c", "d"])
    assert [case.name for case in cases] == ["a", "c"]
    said = capsys.readouterr().err
    for part in (
        "1 rows of {} have no id and are left out, such as line 4",
        "1 patients have several rows in {}, such as c",
        "1 of 5 rows of {} have no case in the data, such as that of gone",
        "1 of 4 cases of image_folder are not in {} and are left out: d",
        "1 cases have no set in {} and are left out, such as b",
    ):
        before, after = part.split("{}")
        assert before in said and after in said, part


@pytest.mark.parametrize(
    ("text", "splits", "problem"),
    [
        (HEADER + "a,training 2,\n", SPLITS, r"line 2: 'training 2'\. Did you mean training.* Known: train, training"),
        (HEADER + "a,train,\na,test,\n", SPLITS, "patient a is in line 2 and line 3 with different splits"),
        (
            HEADER + "a,train,\n",
            {**SPLITS, "split": "sett"},
            r"Unknown column in .*cohort\.csv: 'sett'\. Did you mean set",
        ),
        (
            "case,set\na,train\na,test\n",
            {"csv": "cohort.csv", "case": "case", "split": "set"},
            "line 2 and line 3 are both about a and differ",
        ),
        ("id,f\na,0\nb,2\n", {"csv": "cohort.csv", "patient": "id", "fold": "f"}, "f holds 0, 2, expected the folds"),
        ("id,f\na,0\nb,x\n", {"csv": "cohort.csv", "patient": "id", "fold": "f"}, "line 3: the fold is 'x'"),
        ("who,set\na,train\n", {"csv": "absent.csv", "patient": "who", "split": "set"}, r"absent\.csv"),
    ],
)
def test_contradictions_are_refused(cohort, text, splits, problem):
    with pytest.raises(InputError, match=problem):
        cohort(text, ["a", "b"], splits)


def test_patients_of_cases_in_two_splits_or_folds_are_refused(cohort):
    text = "id,case,set,f\np,a,train,0\np,b,test,\n"
    how = {"csv": "cohort.csv", "patient": "id", "case": "case"}
    with pytest.raises(InputError, match="patient p is in both train and test"):
        split_cases(*reversed(cohort(text, ["a", "b"], {**how, "split": "set"})))
    with pytest.raises(InputError, match="patient p is in folds 0 and 1"):
        cohort(text.replace("test,", "train,1"), ["a", "b"], {**how, "split": "set", "fold": "f"})


def test_files_that_may_be_several_cases_are_refused(tmp_path):
    (tmp_path / "cohort.csv").write_text("file,set\n1.png,train\n")
    card = replace(
        load_card("image_folder"), splits={"csv": str(tmp_path / "cohort.csv"), "case": "file", "split": "set"}
    )
    cases = [Case(f"{town}_1", "", ((tmp_path / town / "1.png",),)) for town in "ab"]
    with pytest.raises(InputError, match=r"line 2: 1\.png may be a_1 or b_1\. Give the path"):
        with_cohort(card, tmp_path, cases)


@pytest.mark.parametrize("first", [0, 1])
def test_folds_of_the_table_are_taken_by_their_number(cohort, tmp_path, first):
    rows = [f"p{n},{'train' if n < 6 else 'test'},{f'{n % 3 + first}.0' if n < 6 else ''}" for n in range(8)]
    splits = {**SPLITS, "fold": "fold"}
    cases, card = cohort("id,set,fold\n" + "\n".join(rows), [f"p{n}" for n in range(8)], splits)
    dealt = [fold_cases(card, cases, tmp_path, first + k, 5) for k in range(3)]
    assert [[case.name for case in split.val] for split in dealt] == [["p0", "p3"], ["p1", "p4"], ["p2", "p5"]]
    assert all(len(split.train) == 4 and [case.name for case in split.test] == ["p6", "p7"] for split in dealt)
    assert number_of_folds(tmp_path, 5, cases) == 3
    with pytest.raises(InputError, match=rf"has the folds {first} to {first + 2} .*, got {first + 3}"):
        fold_cases(card, cases, tmp_path, first + 3, 5)
    without = replace(card, splits={"csv": "cohort.csv", "patient": "id", "fold": "fold"})
    with pytest.raises(InputError, match=r"into folds .* but not into splits\. Choose a fold with --data\.fold"):
        split_cases(without, [replace(case, split=None) for case in cases])


def test_columns_that_differ_between_the_rows_of_a_patient_are_left_empty(cohort, capsys):
    cases, _ = cohort(HEADER + "a,train,GE\na,train,Siemens\nb,test,GE\n", ["a_1", "a_2", "b_1"])
    assert [case.facts["scanner"] for case in cases] == ["", "", "GE"]
    assert "the rows of 1 patients" in capsys.readouterr().err
    cases, _ = cohort(HEADER + "a,train,GE\nb,test,GE\n", ["a_1", "b_1"], {**SPLITS, "columns": []})
    assert [case.facts for case in cases] == [{}, {}]

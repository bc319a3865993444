"""Patients by the names of cases: what is grouped, what is only said, what is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlla_seg.data.card import load_card
from mlla_seg.data.card_sections import Layout
from mlla_seg.data.card_splits import CardSplits
from mlla_seg.data.cases import Case
from mlla_seg.data.patients import loosely, patient_in, with_patients
from mlla_seg.errors import InputError

CARD = load_card("hippocampus")


def patients(names, card=CARD):
    return {case.name: case.patient for case in with_patients(card, [Case(name, name, ()) for name in names])}


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("patient001_frame01", "patient001"),
        ("sub-01_ses-02_T2w", "sub-01"),
        ("Subject_12-left", "Subject_12"),
        ("case12_visit2", "case12"),
        ("liver_7_slice_003", "liver_7"),
        ("017_ED", "017"),
        ("P12_V2", "P12"),
        ("P12-follow-up-1", "P12"),
        ("mav2", "mav2"),
        ("knee9_visit1_slice4", "knee9"),
        ("hippocampus_001", "hippocampus_001"),
        ("scan_3", "scan_3"),
        ("Landscan_3", "Landscan_3"),
        ("region7escape", "region7escape"),
        ("TCGA-CS-4941", "TCGA-CS-4941"),
    ],
)
def test_a_patient_is_found_where_it_is_named_as_such(name, patient):
    assert patient_in(name) == patient


def test_cases_of_one_patient_are_grouped_and_said(capsys):
    names = [f"patient{n:03d}_frame{k:02d}" for n in range(4) for k in (1, 12)]
    assert patients(names) == {name: name[:10] for name in names}
    said = capsys.readouterr().err
    assert "the 8 cases are of 4 patients, such as patient000_frame01 and patient000_frame12" in said
    assert "--data.patient" in said
    by_itself = replace(CARD, layout=replace(CARD.layout, patient=".+"))
    assert patients(names, by_itself) == {name: name for name in names}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "names",
    [
        [f"hippocampus_{n:03d}" for n in range(9)],
        [f"{place}_{n}" for place in "ab" for n in range(9)],  # two places are no patients
        [f"lung1_slice_{n}" for n in range(9)],  # one volume
    ],
)
def test_names_with_a_common_prefix_are_left_alone(names, capsys):
    assert patients(names) == {name: name for name in names}
    assert capsys.readouterr().err == ""


def test_names_that_might_be_of_one_patient_are_said(capsys):
    names = [f"BraTS-{n:03d}-{k:03d}" for n in range(4) for k in range(2)]
    assert patients(names) == {name: name for name in names}
    said = capsys.readouterr().err
    assert "8 of 8 cases share all but the last part of their names with another, such as BraTS-000-000 and" in said
    advised = replace(CARD, layout=replace(CARD.layout, patient="^.+(?=[_.-])"))
    assert set(patients(names, advised).values()) == {f"BraTS-{n:03d}" for n in range(4)}


def test_an_expression_may_mark_the_patient_by_a_group(capsys):
    card = replace(CARD, layout=replace(CARD.layout, patient=r"p(\d+)"))
    assert patients(["p1_a", "p1_b", "other"], card) == {"p1_a": "1", "p1_b": "1", "other": "other"}
    assert "finds no patient in 1 of 3 names, such as other" in capsys.readouterr().err
    with pytest.raises(InputError, match="is in no name of a case, such as x1"):
        patients(["x1", "x2"], card)


def test_visits_stay_together_wherever_splits_are_drawn(capsys):
    names = [f"P{n:02d}_visit{k}" if k else f"P{n:02d}" for n in range(4) for k in range(2)]
    drawn = replace(CARD, layout=Layout(format="files", patterns=(r"(?P<case>.+)\.nii",), tree=""))
    assert drawn.splits.seed is not None
    assert patients(names, drawn) == {name: name[:3] for name in names}
    assert "the 8 cases are of 4 patients, such as P00 and P00_visit1" in capsys.readouterr().err
    for told in ({"split": "Set"}, {"fold": "Fold", "seed": 0}):
        by_table = replace(drawn, splits=CardSplits(csv="a.csv", case="ID", **told))
        assert patients(names, by_table) == {name: name for name in names}


def test_names_differ_loosely():
    assert len({loosely(name) for name in ("SUBJ_007", "subj 7", "Subj-0007")}) == 1
    assert loosely("10") != loosely("1") and loosely("P100") == "p100"


def test_other_layouts_name_patients_in_their_patterns():
    card = load_card("kampala")
    assert patients(["patient001_frame01", "patient001_frame02"], card)["patient001_frame01"] == "patient001_frame01"

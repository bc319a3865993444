"""Columns of a cohort's table: which hold cases, patients and splits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlla_seg.data.card import load_card
from mlla_seg.data.card_splits import CardSplits
from mlla_seg.data.cases import Case
from mlla_seg.data.cohort import with_cohort
from mlla_seg.data.csv_table import read_table
from mlla_seg.errors import InputError
from mlla_seg.planning.table import splits_of

NAMES = ("SUBJ_007", "SUBJ_009", "SUBJ_012", "SUBJ_015")
VISITS = ("S7_visit1", "S7_visit2", "S9_visit1", "S12_visit1")


def planned(folder, text, names):
    """Return what columns are taken for, and the cases with what the table says."""
    (folder / "t.csv").write_text(text.replace("/", "\n") + "\n")
    cases = [Case(name, name, ((folder / f"{name}.nii",),)) for name in names]
    choice, _ = splits_of(read_table(folder / "t.csv"), folder, folder, cases)
    card = replace(load_card("hippocampus"), folder=folder, splits=CardSplits(**choice.value))
    taken = {key: choice.value[key] for key in ("case", "patient", "split", "fold") if key in choice.value}
    return taken, with_cohort(card, folder, cases)


@pytest.mark.parametrize("column", ["Patient", "pid", "subject_id", "Patienten-ID", "anonymised patient"])
def test_a_column_of_patients_beside_one_of_cases_is_no_subgroup(tmp_path, column):
    rows = "SUBJ_007;A;train/SUBJ_009;A;test/SUBJ_012;B;val/SUBJ_015;C;test/SUBJ_099;C;test"
    taken, cases = planned(tmp_path, f"scan;{column};Set/{rows}", NAMES)
    assert taken == {"case": "scan", "patient": column, "split": "Set"}
    assert [case.patient for case in cases] == ["A", "A", "B", "C"]


def test_other_columns_about_patients_are_subgroups(tmp_path):
    taken, cases = planned(tmp_path, "ID;Patient age;Set/SUBJ_007;61;train/SUBJ_009;62;val/SUBJ_012;63;test", NAMES[:3])
    assert taken == {"patient": "ID", "split": "Set"}
    assert cases[0].facts == {"Patient age": "61"}


def test_visits_of_one_patient_in_several_splits_are_said(tmp_path, capsys):
    text = "case;Set/S7_visit1;train/S7_visit2;test/S9_visit1;val/S12_visit1;train"
    assert planned(tmp_path, text, VISITS)[0] == {"case": "case", "split": "Set"}
    assert "1 patients, by the names of their cases, are in several splits or folds" in capsys.readouterr().err
    planned(tmp_path, text.replace("test/", "train/"), VISITS)
    assert "several splits" not in capsys.readouterr().err


def test_names_that_a_spreadsheet_changed_are_told(tmp_path, capsys):
    with pytest.raises(InputError, match=r"image files: 7 is not 007, which a column of type text keeps as it is"):
        planned(tmp_path, "ID;Set/7;train/9;val/12;test", ("007", "009", "0012"))
    planned(tmp_path, "ID;Set/subj_007;train/SUBJ_009;train/SUBJ_012;val/SUBJ_015;test", NAMES)
    said = capsys.readouterr().err
    assert "subj_007 in " in said and "and SUBJ_007 in the data differ only in capitals" in said

"""Cases that are left out with a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlla_seg.data.card import load_card
from mlla_seg.data.cases import Case
from mlla_seg.data.exclusion import with_exclusions
from mlla_seg.data.splits import split_cases
from mlla_seg.errors import InputError

CASES = [Case(f"p{n}_{frame}", f"p{n}", ()) for n in range(9) for frame in "ab"]


def excluding(**reasons):
    card = replace(load_card("hippocampus"), splits={"seed": 0, "val": 0.2, "test": 0.3}, exclude=reasons)
    return card, with_exclusions(card, CASES, [case.name for case in CASES])


def names(cases):
    return [case.name for case in cases]


def test_cases_and_patients_are_left_out_of_their_splits_only(capsys):
    whole = split_cases(*excluding())
    case, patient = whole.train[0], whole.test[0].patient
    splits = split_cases(*excluding(**{case.name: "motion artefact", patient: "no consent"}))
    assert "3 of 18 cases of hippocampus are excluded: p" in capsys.readouterr().err
    assert names(splits.train) == names(whole.train)[1:] and names(splits.val) == names(whole.val)
    assert names(splits.test) == [other.name for other in whole.test if other.patient != patient]
    assert splits.excluded[case.name] == "motion artefact" and len(splits.excluded) == 3


def test_unknown_names_are_refused_with_similar_ones():
    with pytest.raises(InputError, match=r"Unknown case to exclude from hippocampus: 'p3_c'\. Did you mean p3_"):
        excluding(p3_c="x")

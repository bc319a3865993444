"""Patients of cases: several images of one patient, such as the frames of a heart, must be in one split."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.errors import InputError
from mlla_seg.progress import note

PERSON = re.compile(r"(sub-[a-z0-9]+|(?:patient|subject|subj|pat|pt)[_-]?\d+)(?![a-z0-9])", re.IGNORECASE)
"""A patient at the start of a name, as in BIDS and ACDC."""
PART = re.compile(
    r"(.*\d.*?)[_.-]?(?<![a-z])(?:frame|visit|ses|session|timepoint|time|tp|phase|scan|slice|echo|run|patch|tile|crop"
    r"|left|right|ed|es|baseline|follow[_-]?up|bl|fu|v(?=\d))[_-]?\d*",
    re.IGNORECASE,
)
"""A name that ends in a part of a patient, such as a visit or a slice; what comes before must have a number."""
MOST = 10
"""Mean number of cases that share all but the last part of their names, above which that is not taken for a patient."""


def with_patients(card: Card, cases: Sequence[Case]) -> list[Case]:
    """Return cases with their patients: by the card's expression ``patient``, otherwise by their names.

    Names tell patients where the layout does not, in nnU-Net folders and wherever splits are drawn.

    Raises:
        InputError: The expression finds no patient in any name.
    """
    if card.layout.patient is not None:
        return _by_expression(card.layout.patient, cases)
    if card.layout.format != "nnunet" and not _may_be_torn(card, cases):
        return [*cases]
    groups = _grouped({case.name: patient_in(case.name) for case in cases})
    if 3 <= len(groups) < len(cases):
        several = next(names for names in groups.values() if len(names) > 1)
        note(
            f"note: by their names, the {len(cases)} cases are of {len(groups)} patients, such as {several[0]} and "
            f"{several[1]}; each patient is in one split. --data.patient takes another expression for the patient in a "
            "name, '.+' for every case by itself."
        )
        return [replace(case, patient=patient_in(case.name)) for case in cases]
    if card.layout.format == "nnunet":
        _note_alike([case.name for case in cases])
    return [*cases]


def _may_be_torn(card: Card, cases: Sequence[Case]) -> bool:
    """Return whether splits are drawn from cases of which the layout says no patient."""
    how = card.splits
    drawn = how.seed is not None and how.fold is None and how.blocks is None
    return drawn and all(case.split is None and case.patient == case.name for case in cases)


def loosely(name: str) -> str:
    """Return a name without what spreadsheets and people change: capitals, blanks, signs, and zeros at the front."""
    return re.sub(r"[\W_]+|(?<!\d)0+(?=\d)", "", name.casefold())


def note_torn(cases: Sequence[Case], where: object) -> None:
    """Note cases that by their names are of one patient, but that a table puts into several splits or folds."""
    groups: dict[str, dict[object, str]] = defaultdict(dict)
    for case in cases:
        groups[patient_in(case.name)].setdefault((case.split, case.fold), case.name)
    torn = {patient: [*places.values()] for patient, places in groups.items() if len(places) > 1}
    if torn:
        first, second, *_ = next(iter(torn.values()))
        note(
            f"note: {len(torn)} patients, by the names of their cases, are in several splits or folds of {where}, such "
            f"as that of {first} and {second}. If so, correct the table, or name its column of patients."
        )


def patient_in(name: str) -> str:
    """Return the patient in the name of a case, if it is named as such; else the name."""
    if match := PERSON.match(name):
        return match[1]
    while match := PART.fullmatch(name):
        name = match[1]
    return name


def _by_expression(expression: str, cases: Sequence[Case]) -> list[Case]:
    found = {case.name: match for case in cases if (match := re.search(expression, case.name))}
    without = [case.name for case in cases if case.name not in found]
    if cases and not found:
        raise InputError(f"The expression for patients, {expression!r}, is in no name of a case, such as {without[0]}.")
    if without:
        note(
            f"note: {expression!r} finds no patient in {len(without)} of {len(cases)} names, such as {without[0]}; "
            "each of them is taken for a patient of its own."
        )
    groups = {name: match[1] if match.re.groups else match[0] for name, match in found.items()}
    return [replace(case, patient=groups.get(case.name) or case.name) for case in cases]


def _note_alike(names: Sequence[str]) -> None:
    """Note cases that might be of one patient, as their names share all but the last part."""
    groups = _grouped({name: re.sub(r"[_.-][^_.-]+$", "", name) for name in names})
    several = [found for found in groups.values() if len(found) > 1]
    if several and len(groups) >= 3 and len(names) <= MOST * len(groups):
        note(
            f"note: {sum(map(len, several))} of {len(names)} cases share all but the last part of their names with "
            f"another, such as {several[0][0]} and {several[0][1]}, and may land in different splits. If they are of "
            "one patient, set --data.patient '^.+(?=[_.-])'."
        )


def _grouped(patients: dict[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, patient in patients.items():
        groups[patient].append(name)
    return groups

"""Splits by folder, table, patient list or random draw; each patient is in one split only.

Folds are in ``folds.py``, blocks of scenes in ``blocks.py``.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import SPLITS
from mlla_seg.data.cases import Case
from mlla_seg.errors import InputError
from mlla_seg.progress import note
from mlla_seg.texts import read_lines


@dataclass
class Splits:
    """Cases by split; each patient is in one split only."""

    train: list[Case] = field(default_factory=list)
    val: list[Case] = field(default_factory=list)
    test: list[Case] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    """Cases that the card leaves out, each with the reason."""


def split_cases(card: Card, cases: Iterable[Case]) -> Splits:
    """Assign cases to train, val and test by patient.

    The table decides, or the folders of the files, if they define splits; otherwise the card's patient lists; otherwise
    its fractions, drawn once from its seed over the sorted patients.

    Raises:
        InputError: A patient is in two splits, a list is empty, some cases lie in folders of splits and others do not,
            there are only folds, or there is no training case.
    """
    cases = list(cases)
    patients = split_patients(card, cases)
    splits = by_patient(card, cases, patients)
    note_unlisted(card, cases, patients)
    return splits


def note_unlisted(card: Card, cases: Sequence[Case], patients: Mapping[str, set[str]]) -> None:
    """Note cases whose patient is in no split."""
    if left := [case.name for case in kept(cases) if not any(case.patient in listed for listed in patients.values())]:
        note_names(left, f"of {len(cases)} cases of {card.name} are in no split list and are left out")


def split_patients(card: Card, cases: Sequence[Case]) -> dict[str, set[str]]:
    """Return the patients of each split; see :func:`split_cases`."""
    placed, loose = [case for case in cases if case.split], [case for case in cases if not case.split]
    if placed and loose:
        raise InputError(
            f"{card.name}: {len(placed)} of {len(cases)} cases lie in folders that name their split, such as "
            f"{placed[0].name}, and the others do not, such as {loose[0].name}. Move one of the two kinds elsewhere."
        )
    present = {case.patient for case in cases}
    if placed:
        patients = {split: {case.patient for case in kept(cases) if case.split == split} for split in SPLITS}
        _note_unused(card, patients)
        return patients
    if card.splits.seed is not None:
        return _draw(card, sorted(present))
    if not card.splits.files:
        raise InputError(
            f"{card.name}: {card.splits.csv} divides the cases into folds by its column {card.splits.fold}, but not "
            "into splits. Choose a fold with --data.fold."
        )
    patients = {split: _read_list(card, split, card.folder / file) for split, file in card.splits.files.items()}
    for split, listed in patients.items():
        note_absent(listed, present, f"patients of split {split}")
    return patients


def kept(cases: Iterable[Case]) -> list[Case]:
    """Return the cases that are not excluded."""
    return [case for case in cases if case.excluded is None]


def excluded_of(cases: Iterable[Case]) -> dict[str, str]:
    """Return the names of the excluded cases, each with the reason."""
    return {case.name: case.excluded for case in cases if case.excluded is not None}


def note_names(names: Sequence[str], what: str) -> None:
    """Note what holds for some cases, with their number and the first few names."""
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    note(f"note: {len(names)} {what}: {shown}")


def _note_unused(card: Card, patients: Mapping[str, set[str]]) -> None:
    """Note splits that the card draws by fractions, but that have no folder."""
    for split in ("val", "test"):
        fraction = getattr(card.splits, split)
        if isinstance(fraction, float) and fraction and not patients[split]:
            note(
                f"note: folders define the splits of {card.name} and none is for {split}, so it has no case; "
                f"{split}: {fraction:g} of the card is not used."
            )


def note_absent(listed: set[str], present: set[str], what: str) -> None:
    """Note names of a list that are not in the data."""
    if absent := sorted(listed - present):
        note_names(absent, f"of {len(listed)} {what} are missing")


def by_patient(card: Card, cases: Sequence[Case], patients: Mapping[str, set[str]]) -> Splits:
    """Return cases by the split of their patient; raise if a patient is in two splits or none is for training."""
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := sorted(patients.get(a, set()) & patients.get(b, set())):
            raise InputError(f"{card.name}: patient {shared[0]} is in both {a} and {b} ({len(shared)} such patients).")
    used = kept(cases)
    train, val, test = ([case for case in used if case.patient in patients.get(split, set())] for split in SPLITS)
    splits = Splits(train, val, [case.tested() for case in test], excluded_of(cases))
    if not splits.train:
        listed, found = patients.get("train"), cases[0].patient if cases else "none"
        example = f": it lists {min(listed)}, the data have {found}" if listed else ""
        raise InputError(
            f"{card.name}: {len(cases)} cases found, but none of them is in the training split of the card{example}."
        )
    return splits


def _draw(card: Card, patients: list[str]) -> dict[str, set[str]]:
    fractions, total = card.splits, len(patients)
    random.Random(fractions.seed).shuffle(patients)
    drawn = {}
    for split in ("test", "val"):
        fraction = getattr(fractions, split) or 0
        count = max(1, round(fraction * total)) if fraction and total >= 3 else 0
        if fraction and not count:
            note(
                f"note: {total} patient{'s are' if total > 1 else ' is'} too few to divide: split {split} of "
                f"{card.name} has no case."
            )
        drawn[split] = count
    test, val = drawn["test"], drawn["val"]
    if test + val >= total:
        raise InputError(
            f"{card.name}: val: {fractions.val or 0:g} and test: {fractions.test or 0:g} of {total} patients leave "
            "none to train on. Lower them in the card's splits."
        )
    return {"test": set(patients[:test]), "val": set(patients[test : test + val]), "train": set(patients[test + val :])}


def _read_list(card: Card, split: str, path: Path) -> set[str]:
    """Read the patients of a split; a ``#`` at the start of a line or after a blank begins a comment."""
    if not os.path.isfile(path):
        raise InputError(f"The card's split list {path} does not exist.")
    listed = {re.split(r"(?:^|\s)#", line)[0].strip() for line in read_lines(path)} - {""}
    if not listed:
        raise InputError(
            f"{path}: names no patient. Put one on each line, or remove {split} from the splits of {card.name}."
        )
    return listed

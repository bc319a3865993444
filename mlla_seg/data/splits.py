"""Splits by folder, patient list or random draw; each patient is in one split only. Folds are in ``folds.py``."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import SPLITS, CardSplits
from mlla_seg.data.cases import Case
from mlla_seg.errors import InputError


@dataclass
class Splits:
    """Cases by split; each patient is in one split only."""

    train: list[Case] = field(default_factory=list)
    val: list[Case] = field(default_factory=list)
    test: list[Case] = field(default_factory=list)


def split_cases(card: Card, cases: Iterable[Case]) -> Splits:
    """Assign cases to train, val and test by patient.

    The location of the files decides if the layout defines it; else the card's patient lists; else the card's
    fractions, drawn once from its seed over the sorted patients.

    Raises:
        InputError: A patient is in two splits, or there is no training case.
    """
    cases = list(cases)
    if all(case.split for case in cases):
        patients: dict[str, set[str]] = {split: {c.patient for c in cases if c.split == split} for split in SPLITS}
    elif card.splits.seed is not None:
        patients = _draw(sorted({case.patient for case in cases}), card.splits)
    else:
        patients = {split: _read_list(card.folder / file) for split, file in card.splits.files.items()}
        present = {case.patient for case in cases}
        for split, listed in patients.items():
            note_absent(listed, present, f"patients of split {split}")
    return by_patient(card, cases, patients)


def note_absent(listed: set[str], present: set[str], what: str) -> None:
    if absent := sorted(listed - present):
        shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        print(f"note: {len(absent)} of {len(listed)} {what} are missing: {shown}", file=sys.stderr)


def by_patient(card: Card, cases: Sequence[Case], patients: Mapping[str, set[str]]) -> Splits:
    """Return cases by the split of their patient; raise if a patient is in two splits or none is for training."""
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := sorted(patients.get(a, set()) & patients.get(b, set())):
            raise InputError(f"{card.name}: patient {shared[0]} is in both {a} and {b} ({len(shared)} such patients).")
    splits = Splits(*([case for case in cases if case.patient in patients.get(split, set())] for split in SPLITS))
    splits.test = [case.tested() for case in splits.test]
    if not splits.train:
        raise InputError(
            f"{card.name}: {len(cases)} cases found, but none of them is in the training split of the card."
        )
    return splits


def _draw(patients: list[str], fractions: CardSplits) -> dict[str, set[str]]:
    random.Random(fractions.seed).shuffle(patients)
    drawn = {}
    for split in ("test", "val"):
        fraction = getattr(fractions, split) or 0
        count = max(1, round(fraction * len(patients))) if fraction and len(patients) >= 3 else 0
        drawn[split] = count
    test, val = drawn["test"], drawn["val"]
    return {"test": set(patients[:test]), "val": set(patients[test : test + val]), "train": set(patients[test + val :])}


def _read_list(path: Path) -> set[str]:
    if not path.is_file():
        raise InputError(f"The card's split list {path} does not exist.")
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {line for line in lines if line}

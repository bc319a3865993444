"""Splits by folder, patient list, random draw or cross-validation fold; each patient is in one split only."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlla_seg.data.card import SPLITS, Card, CardSplits
from mlla_seg.data.cases import Case
from mlla_seg.errors import InputError

FOLDS_FILE = "splits_final.json"
"""nnU-Net's folds: a list of ``{"train": [names], "val": [names]}``, one per fold."""


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
            _note_absent(listed, present, f"patients of split {split}")
    return _by_patient(card, cases, patients)


def fold_cases(card: Card, cases: Sequence[Case], root: Path, fold: int, folds: int) -> Splits:
    """Return one fold of a cross-validation: the held-out fold is ``val``, the other folds are ``train``.

    The folds are those of nnU-Net's ``splits_final.json`` in the root. Without it, all patients outside the test split
    are shuffled with a fixed seed and divided into folds.

    Raises:
        InputError: The fold does not exist, there are too few patients, or the file of folds cannot be used.
    """
    path = root / FOLDS_FILE
    if path.is_file():
        return _nnunet_fold(card, cases, path, fold)
    if not 0 <= fold < folds:
        raise InputError(f"--data.fold must be from 0 to {folds - 1} with --data.folds {folds}, got {fold}.")
    whole = split_cases(card, cases)
    pool = sorted({case.patient for case in whole.train + whole.val})
    if folds < 2 or len(pool) < folds:
        raise InputError(f"{card.name}: {len(pool)} patients outside the test split cannot form {folds} folds.")
    random.Random(0).shuffle(pool)
    held_out = set(pool[fold::folds])
    test = {case.patient for case in whole.test}
    return _by_patient(card, cases, {"train": set(pool) - held_out, "val": held_out, "test": test})


def number_of_folds(root: Path, folds: int) -> int:
    """Return the number of folds: that of ``splits_final.json`` if there is one, else ``folds``."""
    path = root / FOLDS_FILE
    return len(_read_folds(path)) if path.is_file() else folds


def _read_folds(path: Path) -> list[dict[str, set[str]]]:
    try:
        content = json.loads(path.read_text())
        return [{split: set(map(str, entry[split])) for split in ("train", "val")} for entry in content]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected a list of {{train: [names], val: [names]}}, found {error!r}.") from error


def _nnunet_fold(card: Card, cases: Sequence[Case], path: Path, fold: int) -> Splits:
    """Return a fold by the names of its cases; cases in neither list are tested."""
    folds = _read_folds(path)
    if not 0 <= fold < len(folds):
        raise InputError(f"{path} has {len(folds)} folds: --data.fold must be from 0 to {len(folds) - 1}, got {fold}.")
    names = folds[fold]
    for split, listed in names.items():
        _note_absent(listed, {case.name for case in cases}, f"cases of {split} in {path}")
    patients = {split: {case.patient for case in cases if case.name in listed} for split, listed in names.items()}
    if not patients["train"]:
        raise InputError(
            f"{path}: none of its training cases is in the data, such as {sorted(names['train'] or {'(none)'})[0]}."
        )
    patients["test"] = {case.patient for case in cases} - patients["train"] - patients["val"]
    return _by_patient(card, cases, patients)


def _note_absent(listed: set[str], present: set[str], what: str) -> None:
    if absent := sorted(listed - present):
        shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        print(f"note: {len(absent)} of {len(listed)} {what} are missing: {shown}", file=sys.stderr)


def _by_patient(card: Card, cases: Sequence[Case], patients: Mapping[str, set[str]]) -> Splits:
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

"""Folds of a cross-validation: of a table, of nnU-Net's ``splits_final.json``, or drawn with a fixed seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.splits import Splits, by_patient, kept, note_absent, note_names, note_unlisted, split_patients
from mlla_seg.errors import InputError
from mlla_seg.progress import note
from mlla_seg.texts import read_json

FOLDS_FILE = "splits_final.json"
"""nnU-Net's folds: a list of ``{"train": [names], "val": [names]}``, one per fold."""


def fold_cases(card: Card, cases: Sequence[Case], root: Path, fold: int, folds: int) -> Splits:
    """Return one fold of a cross-validation: the held-out fold is ``val``, the other folds are ``train``.

    The folds are those of the card's table, or of nnU-Net's ``splits_final.json`` in the root. Without these, all
    patients outside the test split are shuffled with a fixed seed and divided into folds.

    Raises:
        InputError: The fold does not exist, there are too few patients, or the file of folds cannot be used.
    """
    if card.splits.fold is not None:
        return _tabled_fold(card, cases, fold)
    path = root / FOLDS_FILE
    if path.is_file():
        return _nnunet_fold(card, cases, path, fold)
    if not 0 <= fold < folds:
        raise InputError(f"--data.fold must be from 0 to {folds - 1} with --data.folds {folds}, got {fold}.")
    whole = split_patients(card, cases)
    present = {case.patient for case in cases}
    pool = sorted((whole.get("train", set()) | whole.get("val", set())) & present)
    if folds < 2 or len(pool) < folds:
        raise InputError(f"{card.name}: {len(pool)} patients outside the test split cannot form {folds} folds.")
    random.Random(0).shuffle(pool)
    held_out = set(pool[fold::folds])
    test = whole.get("test", set())
    note_unlisted(card, cases, whole)
    return by_patient(card, cases, {"train": set(pool) - held_out, "val": held_out, "test": test})


def note_folds(card: Card, root: Path, fold: int | None) -> None:
    """Note that a file of folds is not used, if no fold is asked for or a table has other folds."""
    path = root / FOLDS_FILE
    if path.is_file() and card.splits.fold is not None:
        note(f"note: {path} is not used: the folds are those of {card.splits.csv}.")
    elif path.is_file() and fold is None:
        note(f"note: {path} is used with --data.fold only; splits are those of the card.")


def number_of_folds(root: Path, folds: int, cases: Sequence[Case] = ()) -> int:
    """Return the number of folds: that of the table or ``splits_final.json`` if there is one, else ``folds``."""
    if numbers := {case.fold for case in cases} - {None}:
        return len(numbers)
    path = root / FOLDS_FILE
    return len(_read_folds(path)) if path.is_file() else folds


def _tabled_fold(card: Card, cases: Sequence[Case], fold: int) -> Splits:
    """Return a fold of the card's table; the test split is outside of all folds."""
    numbers = sorted({case.fold for case in cases if case.fold is not None})
    if fold not in numbers:
        raise InputError(
            f"{card.splits.csv} has the folds {numbers[0]} to {numbers[-1]} in its column {card.splits.fold}: "
            f"--data.fold must be one of them, got {fold}."
        )
    divided = card.splits.split is not None or card.splits.seed is not None or bool(card.splits.files)
    test = split_patients(card, cases).get("test", set()) if divided else set()
    patients = {
        "train": {case.patient for case in kept(cases) if case.fold not in (None, fold)} - test,
        "val": {case.patient for case in kept(cases) if case.fold == fold} - test,
        "test": test,
    }
    if without := [case.name for case in kept(cases) if case.fold is None and case.patient not in test]:
        note_names(without, f"of {len(cases)} cases have no {card.splits.fold} in {card.splits.csv} and are left out")
    return by_patient(card, cases, patients)


def _read_folds(path: Path) -> list[dict[str, set[str]]]:
    content = read_json(path)
    try:
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
        note_absent(listed, {case.name for case in cases}, f"cases of {split} in {path}")
    cases = _as_listed(card, cases, names, path)
    patients = {split: {case.patient for case in cases if case.name in listed} for split, listed in names.items()}
    if not patients["train"]:
        raise InputError(
            f"{path}: none of its training cases is in the data, such as {sorted(names['train'] or {'(none)'})[0]}."
        )
    patients["test"] = {case.patient for case in cases} - patients["train"] - patients["val"]
    splits = by_patient(card, cases, patients)
    note(
        f"note: fold {fold} of {len(folds)} is that of {path}: {len(splits.train)} cases train, {len(splits.val)} "
        f"validate, {len(splits.test)} in neither list test."
    )
    return splits


def _as_listed(card: Card, cases: Sequence[Case], names: Mapping[str, set[str]], path: Path) -> Sequence[Case]:
    """Return cases, each as its own patient if a fold divides patients that are only guessed, as nnU-Net's folds do."""
    if card.layout.patient is not None or card.layout.format != "nnunet":
        return cases
    train, val = ({case.patient for case in cases if case.name in names[split]} for split in ("train", "val"))
    if not (shared := sorted(train & val)):
        return cases
    note(
        f"note: {path} puts {len(shared)} patients into both train and val, such as {shared[0]}, so validation scores "
        "are too good. It is used as it is; remove it to have folds by patient."
    )
    return [replace(case, patient=case.name) for case in cases]

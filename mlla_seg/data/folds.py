"""Folds of a cross-validation: those of nnU-Net's ``splits_final.json``, or drawn with a fixed seed."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.splits import Splits, by_patient, note_absent, split_cases
from mlla_seg.errors import InputError

FOLDS_FILE = "splits_final.json"
"""nnU-Net's folds: a list of ``{"train": [names], "val": [names]}``, one per fold."""


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
    return by_patient(card, cases, {"train": set(pool) - held_out, "val": held_out, "test": test})


def note_folds(root: Path) -> None:
    """Note that there is a file of folds, if none of them is asked for."""
    if (root / FOLDS_FILE).is_file():
        print(
            f"note: {root / FOLDS_FILE} is used with --data.fold only; splits are those of the card.", file=sys.stderr
        )


def number_of_folds(root: Path, folds: int) -> int:
    """Return the number of folds: that of ``splits_final.json`` if there is one, else ``folds``."""
    path = root / FOLDS_FILE
    return len(_read_folds(path)) if path.is_file() else folds


def _read_folds(path: Path) -> list[dict[str, set[str]]]:
    try:
        content = json.loads(path.read_bytes())  # of any encoding, with or without a byte-order mark
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
    print(
        f"note: fold {fold} of {len(folds)} is that of {path}: {len(splits.train)} cases train, {len(splits.val)} "
        f"validate, {len(splits.test)} in neither list test.",
        file=sys.stderr,
    )
    return splits


def _as_listed(card: Card, cases: Sequence[Case], names: Mapping[str, set[str]], path: Path) -> Sequence[Case]:
    """Return cases each as its own patient if a fold divides patients that are only guessed, as nnU-Net's do."""
    if card.layout.patient is not None or card.layout.format != "nnunet":
        return cases
    train, val = ({case.patient for case in cases if case.name in names[split]} for split in ("train", "val"))
    if not (shared := sorted(train & val)):
        return cases
    print(
        f"note: {path} puts {len(shared)} patients into both train and val, such as {shared[0]}, so validation scores "
        "are too good. It is used as it is; remove it to have folds by patient.",
        file=sys.stderr,
    )
    return [replace(case, patient=case.name) for case in cases]

"""What the columns of a cohort's table mean, found from their cells."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mlla_seg.data.cases import Case
from mlla_seg.data.cohort import FOLD, WORDS
from mlla_seg.data.csv_table import Table, read_table
from mlla_seg.data.tree import stem_of
from mlla_seg.errors import InputError
from mlla_seg.planning.choices import FRACTIONS, Choice
from mlla_seg.planning.words import means_mask

MOST_FOLDS = 20
MOSTLY = 0.5
"""Fraction of the rows or cases that must agree with the data."""


def listed_files(table: Table, root: Path) -> dict[str, str]:
    """Return the columns with the image and the mask file of each row, if the table lists files below the root."""
    found = [
        name
        for name in table.columns
        if sum((root / row.cells[name]).is_file() for row in table.rows if row.cells[name]) > MOSTLY * len(table.rows)
    ]
    masks = [name for name in found if means_mask(name) or means_mask(Path(table.rows[0].cells[name]).name)]
    images = [name for name in found if name not in masks]
    return {"image": images[0], "mask": masks[0]} if images and masks else {}


def read_cohort(path: Path) -> Table:
    """Read the table of ``--cohort``.

    Raises:
        InputError: There is no such file, or it is no table.
    """
    if not path.is_file():
        raise InputError(f"--cohort {path}: no such file.")
    return read_table(path)


def splits_of(table: Table, root: Path, folder: Path, cases: Sequence[Case]) -> tuple[Choice, list[str]]:
    """Return the section ``splits`` of a card in ``folder`` and what is not certain about it.

    Raises:
        InputError: No column names the patients or the cases.
    """
    key = listed_files(table, root) or _key(table, cases)
    split = next((name for name in table.columns if name not in key.values() and _is_split(table, name)), None)
    fold = next((name for name in table.columns if name not in (split, *key.values()) and _is_fold(table, name)), None)
    said: dict[str, object] = {"csv": os.path.relpath(table.path, folder), **key}
    said |= {name: column for name, column in (("split", split), ("fold", fold)) if column}
    unsure = []
    if not split:
        said |= FRACTIONS
        if not fold:
            unsure.append(f"{table.path} has no column of splits or folds: test and validation patients are drawn.")
    meant = {*key.values(), split, fold}
    further = [name for name in table.columns if name not in meant]
    told = f"further columns, which become subgroups of the report: {', '.join(further)}" if further else ""
    return Choice(said, told), unsure


def _key(table: Table, cases: Sequence[Case]) -> dict[str, str]:
    """Return the column whose cells name most cases, or most of their patients."""
    names = {name for case in cases for name in (case.name, *(stem_of(path.name) for path in case.images[0]))}
    starts = {name[: match.start()] for name in names for match in re.finditer(r"[^0-9A-Za-z]", name)}
    patients = {case.patient for case in cases} | starts
    counts = []
    for column in table.columns:
        cells = [row.cells[column] for row in table.rows if row.cells[column]]
        exact = sum(stem_of(Path(cell).name) in names for cell in cells)
        alike = sum(cell in patients for cell in cells)
        counts += [(exact, 0, "case", column), (alike, 1, "patient", column)]
    most, _, meaning, column = max(counts, key=lambda entry: entry[:2], default=(0, 0, "", ""))
    if most < MOSTLY * min(len(table.rows), len(cases)):
        shown = ", ".join(f"{name}: {table.rows[0].cells[name]}" for name in table.columns[:4])
        raise InputError(
            f"{table.path}: no column names the cases of the data, such as {cases[0].name} (its first row: {shown}). "
            "Give one column the names of the patients, the cases or the image files."
        )
    return {meaning: column}


def _is_split(table: Table, column: str) -> bool:
    words = {row.cells[column].casefold() for row in table.rows} - {""}
    return len({WORDS.get(word) for word in words}) > 1 and all(word in WORDS for word in words)


def _is_fold(table: Table, column: str) -> bool:
    cells = {row.cells[column] for row in table.rows} - {""}
    named = re.search(r"fold|\bcv\b", column, re.IGNORECASE)
    return bool(named) and 1 < len(cells) <= MOST_FOLDS and all(FOLD.fullmatch(cell) for cell in cells)

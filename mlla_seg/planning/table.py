"""What the columns of a cohort's table mean, found from their cells."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from mlla_seg.data.cases import Case
from mlla_seg.data.cohort import FOLD, WORDS
from mlla_seg.data.csv_table import Table, read_table
from mlla_seg.data.patients import loosely, patient_in
from mlla_seg.data.tree import stem_of
from mlla_seg.errors import InputError
from mlla_seg.planning.choices import FRACTIONS, Choice
from mlla_seg.planning.words import means_mask
from mlla_seg.progress import say

MOST_FOLDS = 20
NAMES_SPLITS = re.compile(r"split|set\b|subset|partition", re.IGNORECASE)
NAMES_PATIENTS = re.compile(
    r"(?:(?:study|anon\w*|id)[ _-]?)?"
    r"(?:patient|subject|proband|participant|person|pseudonym|pat|subj|pid|mrn)(?:en|in|s)?"
    r"(?:[ _-]?(?:id|no|nr|number|nummer|name|code|key))?",
    re.IGNORECASE,
)
MOSTLY = 0.5
"""Fraction of the rows or cases that must agree with the data."""


def listed_files(table: Table, root: Path) -> dict[str, str]:
    """Return the columns with the image and the mask file of each row, if the table lists files below the root."""
    there = {
        name: sum(os.path.isfile(root / cell) for row in table.rows if (cell := row.cells[name]))
        for name in table.columns
    }
    found = [name for name, count in there.items() if count > MOSTLY * len(table.rows)]
    masks = [name for name in found if means_mask(name) or means_mask(Path(table.rows[0].cells[name]).name)]
    images = [name for name in found if name not in masks]
    return {"image": images[0], "mask": masks[0]} if images and masks else {}


def read_cohort(path: Path, root: Path) -> Table:
    """Read the table of ``--cohort``, a file in the working directory or below the root of the data.

    Raises:
        InputError: There is no such file, or it is no table.
    """
    found = next((place for place in (path, root / path) if place.is_file()), None)
    if found is None:
        raise InputError(f"--cohort {path}: no such file, and none in {root} either.")
    return read_table(found)


def splits_of(table: Table, root: Path, folder: Path, cases: Sequence[Case]) -> tuple[Choice, list[str]]:
    """Return the section ``splits`` of a card in ``folder`` and what is not certain about it.

    Raises:
        InputError: No column names the patients or the cases, or one names splits and something else.
    """
    key = listed_files(table, root) or _key(table, cases)
    if "patient" not in key and (patient := _patients(table, [*key.values()])):
        key["patient"] = patient
    split = next((name for name in table.columns if name not in key.values() and _is_split(table, name)), None)
    fold = next((name for name in table.columns if name not in (split, *key.values()) and _is_fold(table, name)), None)
    said: dict[str, object] = {"csv": os.path.relpath(table.path, folder), **key}
    said |= {name: column for name, column in (("split", split), ("fold", fold)) if column}
    meant = {*key.values(), split, fold}
    further = [name for name in table.columns if name not in meant]
    unsure = []
    if not split:
        for name in further:
            _refuse_half_split(table, name)
        said |= FRACTIONS
        unsure.append(
            f"{table.path} has no column of splits: {FRACTIONS['test']:.0%} of the patients are drawn for the test"
            + (f", and the folds in {fold} divide the others." if fold else f", {FRACTIONS['val']:.0%} for validation.")
        )
    roles: dict[str | None, str] = {
        **{column: meaning for meaning, column in key.items()},
        split: "split",
        fold: "fold",
    }
    used = [f"{column} ({meaning})" for column, meaning in roles.items() if column]
    say(f"{table.path}: {', '.join(used)}" + (f"; subgroups by {', '.join(further)}" if further else ""))
    told = f"further columns, which become subgroups of the report: {', '.join(further)}" if further else ""
    return Choice(said, told), unsure


def _key(table: Table, cases: Sequence[Case]) -> dict[str, str]:
    """Return the column whose cells name most cases, or most of their patients.

    One that names each case by itself may name patients too, unless another column does, or its names are of visits.
    """
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
            "Give one column the names of the patients, the cases or the image files"
            f"{_nearly(table, names | patients)}."
        )
    if meaning == "patient" and (most, 0, "case", column) in counts:
        called = {row.cells[column] for row in table.rows}
        if len({patient_in(name) for name in called}) < len(called) or _patients(table, [column]):
            meaning = "case"
    return {meaning: column}


def _nearly(table: Table, names: Collection[str]) -> str:
    """Say if a cell is almost a name; spreadsheets take 007 for the number 7."""
    known = {loosely(name): name for name in names}
    for row in table.rows:
        for cell in row.cells.values():
            if cell and (name := known.get(loosely(cell))):
                return f": {cell} is not {name}, which a column of type text keeps as it is"
    return ""


def _patients(table: Table, used: Collection[str]) -> str | None:
    """Return the column that is named after patients and has one for each row."""
    for column in table.columns:
        if column not in used and NAMES_PATIENTS.fullmatch(column) and all(row.cells[column] for row in table.rows):
            return column
    return None


def _is_split(table: Table, column: str) -> bool:
    words = {row.cells[column].casefold() for row in table.rows} - {""}
    return len({WORDS.get(word) for word in words}) > 1 and all(word in WORDS for word in words)


def _refuse_half_split(table: Table, column: str) -> None:
    """Raise if a column looks like splits but has other words too: splits that are drawn would mix its patients."""
    cells = Counter(row.cells[column] for row in table.rows if row.cells[column])
    known = {WORDS[cell.casefold()] for cell in cells if cell.casefold() in WORDS}
    others = [cell for cell in cells if cell.casefold() not in WORDS]
    if others and (len(known) > 1 or (known and NAMES_SPLITS.search(column))):
        shown = ", ".join(f"{cell!r} ({cells[cell]} rows)" for cell in others[:3])
        raise InputError(
            f"{table.path}: the column {column} has splits, but also {shown}. Write train, val or test, leave cells of "
            "patients that are not used empty, and rename the column if it says something else."
        )


def _is_fold(table: Table, column: str) -> bool:
    cells = {row.cells[column] for row in table.rows} - {""}
    named = re.search(r"fold|\bcv\b", column, re.IGNORECASE)
    return bool(named) and 1 < len(cells) <= MOST_FOLDS and all(FOLD.fullmatch(cell) for cell in cells)

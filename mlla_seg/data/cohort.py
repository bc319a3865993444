"""What a table says about cases: their patient, split and fold, and further columns such as scanner, sex or age."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.csv_table import Row, Table, read_table
from mlla_seg.data.patients import loosely, note_torn, patient_in
from mlla_seg.data.tree import stem_of
from mlla_seg.errors import InputError, lookup
from mlla_seg.progress import note

WORDS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "ts", "holdout", "hold-out"), "test"),
}
"""Words of a column of splits, in upper or lower case."""
FOLD = re.compile(r"(?:fold[ _-]?)?(\d+)(?:[.,]0+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """What the table says about a patient or case."""

    line: int
    patient: str = ""
    split: str | None = None
    fold: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """Cells of the further columns."""


def table_of(card: Card, root: Path) -> Table:
    """Read the table of the card's splits, which is beside the card or in the root.

    Raises:
        InputError: There is no table, or it lacks a column that the card names.
    """
    name = card.splits.csv or ""
    places = list(dict.fromkeys((card.folder / name, root / name)))
    path = next((place for place in places if os.path.isfile(place)), None)
    if path is None:
        raise InputError(
            f"The table of splits does not exist: {' and '.join(map(str, places))}. Correct csv of splits."
        )
    direct = Path(os.path.normpath(path))  # without the .. of a card beside the data, but not if links lead elsewhere
    table = read_table(direct if direct.is_file() and direct.samefile(path) else path)
    path = table.path
    image = card.splits.image
    used = [getattr(card.splits, key) for key in ("patient", "case", "mask", "split", "fold")]
    used += [*(image if isinstance(image, tuple) else [image]), *(card.splits.columns or ())]
    for column in filter(None, used):
        lookup(dict.fromkeys(table.columns), column, f"column in {path}:")
    return table


def further_columns(card: Card, table: Table) -> list[str]:
    """Return the columns to write with the scores: those that the card chooses, or all that have no other meaning."""
    if card.splits.columns is not None:
        return [*card.splits.columns]
    how, image = card.splits, card.splits.image
    meant = {how.patient, how.case, how.mask, how.split, how.fold, *(image if isinstance(image, tuple) else [image])}
    return [name for name in table.columns if name not in meant]


def entry_of(card: Card, table: Table, row: Row) -> Entry:
    """Return what a row says.

    Raises:
        InputError: The word for its split, or the number of its fold, is not understood.
    """
    how = card.splits
    split = fold = None
    if how.split is not None and (word := row.cells[how.split]):
        split = lookup(WORDS, word.casefold(), f"split in {table.path}, line {row.line}:")
    if how.fold is not None and (number := row.cells[how.fold]) and split != "test":
        if not (match := FOLD.fullmatch(number)):
            raise InputError(
                f"{table.path}, line {row.line}: the fold is {number!r}, expected a number from 0 or from 1."
            )
        fold = int(match[1])
    facts = {name: row.cells[name] for name in further_columns(card, table)}
    return Entry(row.line, row.cells[how.patient] if how.patient else "", split, fold, facts)


def with_cohort(card: Card, root: Path, cases: Sequence[Case]) -> list[Case]:
    """Return the cases of the table, with their patient, split, fold and further columns.

    Cases are found by their name or image file if the card names a column for these, otherwise by their patient: as
    the card's layout finds it, or the start of the case's name.

    Raises:
        InputError: A row is ambiguous, rows contradict each other, or no row is about any case.
    """
    table = table_of(card, root)
    key = card.splits.case or card.splits.image or card.splits.patient
    assert isinstance(key, str)  # as the card is checked
    rows = [row for row in table.rows if row.cells[key]]
    if empty := [row for row in table.rows if not row.cells[key]]:
        _note(f"{len(empty)} rows of {table.path} have no {key} and are left out, such as line {empty[0].line}")
    if key == card.splits.patient:
        found = _by_patient(card, table, rows, cases)
    else:
        found = _by_case(card, table, rows, root, cases)
    _note_unmatched(card, table, key, rows, found, cases)
    return settled(card, table, [_joined(case, found[case.name]) for case in cases if case.name in found])


def _joined(case: Case, entry: Entry) -> Case:
    patient = entry.patient or case.patient
    return replace(case, patient=patient, split=entry.split or case.split, fold=entry.fold, facts=entry.facts)


def settled(card: Card, table: Table, cases: Sequence[Case]) -> list[Case]:
    """Return the cases that the table assigns to a split, after checks of the folds.

    Raises:
        InputError: A patient is in two folds, or the numbers of the folds have gaps.
    """
    how = card.splits
    if how.split is not None and (without := [case for case in cases if case.split is None]):
        _note(f"{len(without)} cases have no {how.split} in {table.path} and are left out, such as {without[0].name}")
        cases = [case for case in cases if case.split is not None]
    if how.patient is None:
        note_torn(cases, table.path)
    if how.fold is None:
        return [*cases]
    folds: dict[str, set[int]] = defaultdict(set)
    for case in cases:
        folds[case.patient] |= {case.fold} - {None} if case.fold is not None else set()
    if torn := [patient for patient, found in folds.items() if len(found) > 1]:
        both = " and ".join(map(str, sorted(folds[torn[0]])))
        raise InputError(f"{table.path}: patient {torn[0]} is in folds {both} ({len(torn)} such patients).")
    numbers = sorted(set().union(*folds.values()))
    if not numbers or numbers not in (list(range(len(numbers))), list(range(1, len(numbers) + 1))):
        held = ", ".join(map(str, numbers[:10])) or "no number"
        raise InputError(f"{table.path}: the column {how.fold} holds {held}, expected the folds 0 to k-1 or 1 to k.")
    return [*cases]


def _by_patient(card: Card, table: Table, rows: Sequence[Row], cases: Sequence[Case]) -> dict[str, Entry]:
    """Return entries by the names of the cases, which belong to the patients of the rows."""
    by_patient: dict[str, list[Entry]] = defaultdict(list)
    for row in rows:
        entry = entry_of(card, table, row)
        by_patient[entry.patient].append(entry)
    merged = _merged(table, by_patient)
    owners = {case.name: _owner(case, merged, card.layout.patient is not None) for case in cases}
    guessed = [
        (case.name, owner)
        for case in cases
        if (owner := owners[case.name]) is not None and owner not in (case.patient, case.name)
    ]
    if guessed:
        name, owner = guessed[0]
        _note(
            f"{len(guessed)} of {len(cases)} cases are assigned to the patient of {table.path} with which their names "
            f"start, such as {name} to {owner}; --data.patient takes an expression for the patient in a name"
        )
    return {name: merged[owner] for name, owner in owners.items() if owner is not None}


def _owner(case: Case, patients: Mapping[str, Entry], declared: bool) -> str | None:
    """Return the patient of a case: its own, or the longest one with which its name starts."""
    candidates = [case.patient]
    if not declared and case.patient == case.name:
        ends = [match.start() for match in re.finditer(r"[^0-9A-Za-z]", case.name)]
        candidates += [patient_in(case.name), *(case.name[:end] for end in reversed(ends) if end)]
    return next((name for name in candidates if name in patients), None)


def _merged(table: Table, by_patient: Mapping[str, Sequence[Entry]]) -> dict[str, Entry]:
    """Return one entry for each patient, without further columns in which several rows differ."""
    merged, repeated, torn = {}, [], []
    for patient, entries in by_patient.items():
        first = entries[0]
        for other in entries[1:]:
            if (other.split, other.fold) != (first.split, first.fold):
                raise InputError(
                    f"{table.path}: patient {patient} is in line {first.line} and line {other.line} with different "
                    f"splits or folds. All cases of a patient must be in one split."
                )
        same = {key: cell for key, cell in first.facts.items() if all(e.facts[key] == cell for e in entries)}
        if len(entries) > 1:
            repeated.append(patient)
        if len(same) < len(first.facts):
            torn.append((patient, next(key for key in first.facts if key not in same)))
        merged[patient] = replace(first, facts={key: same.get(key, "") for key in first.facts})
    if repeated:
        _note(f"{len(repeated)} patients have several rows in {table.path}, such as {repeated[0]}")
    if torn:
        _note(
            f"the rows of {len(torn)} patients in {table.path} differ, such as those of {torn[0][0]} in {torn[0][1]}, "
            "which is left empty; name a column with the case or image file to tell them apart"
        )
    return merged


def _by_case(card: Card, table: Table, rows: Sequence[Row], root: Path, cases: Sequence[Case]) -> dict[str, Entry]:
    """Return entries by the names of the cases, which the rows name by these or by image files."""
    column = card.splits.case or card.splits.image
    assert isinstance(column, str)
    known = _names(cases, root)
    found: dict[str, tuple[Row, Entry]] = {}
    repeated = []
    for row in rows:
        name = _tidy(row.cells[column], root)
        matches = known.get(name) or known.get(stem_of(name), set())
        if len(matches) > 1:
            raise InputError(
                f"{table.path}, line {row.line}: {row.cells[column]} may be {' or '.join(sorted(matches)[:3])}. Give "
                "the path of the image below the root."
            )
        for match in matches:
            if match in found and found[match][0].cells != row.cells:
                raise InputError(
                    f"{table.path}: line {found[match][0].line} and line {row.line} are both about {match} and differ."
                )
            if match in found:
                repeated.append(match)
            found[match] = (row, entry_of(card, table, row))
    if repeated:
        _note(f"{len(repeated)} rows of {table.path} repeat another, such as that of {repeated[0]}")
    if card.splits.patient and (without := [name for name, (_, entry) in found.items() if not entry.patient]):
        _note(
            f"{len(without)} cases have no {card.splits.patient} in {table.path}, such as {without[0]}; their patients "
            "are taken from their names"
        )
    return {name: entry for name, (_, entry) in found.items()}


def _names(cases: Iterable[Case], root: Path) -> dict[str, set[str]]:
    """Return the name of each case by every text that a table may use for it."""
    known: dict[str, set[str]] = defaultdict(set)
    own: dict[str, set[str]] = {}
    for case in cases:
        own[case.name] = {case.name}
        for path in (path for files in case.images for path in files):
            below = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
            for name in (below, path.name):
                known[name].add(case.name)
                known[stem_of(name)].add(case.name)
    return {**known, **own}  # the name of a case comes first


def _tidy(cell: str, root: Path) -> str:
    """Return the cell of a file as a path below the root with ``/`` between folders."""
    path = Path(cell.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        path = path.relative_to(root.absolute())
    return path.as_posix()


def _note_unmatched(
    card: Card, table: Table, key: str, rows: Sequence[Row], found: Mapping[str, Entry], cases: Sequence[Case]
) -> None:
    """Note rows without a case, and cases without a row; raise if no row has a case."""
    used = {entry.line for entry in found.values()}
    named = {row.cells[key] for row in rows if row.line in used}
    idle = list(dict.fromkeys(row.cells[key] for row in rows if row.cells[key] not in named))
    left = [case.name for case in cases if case.name not in found]
    if not found:
        raise InputError(
            f"{table.path}: none of its {len(rows)} rows is about a case of the data. Its column {key} has names such "
            f"as {rows[0].cells[key] if rows else '(none)'}, the data have cases such as {cases[0].name}."
        )
    known = {loosely(name): name for case in cases if case.name in left for name in (case.name, case.patient)}
    if almost := next(((cell, known[loosely(cell)]) for cell in idle if loosely(cell) in known), None):
        _note(
            f"{almost[0]} in {table.path} and {almost[1]} in the data differ only in capitals, blanks, signs or "
            "leading zeros, so they are not taken for the same"
        )
    if idle:
        _note(f"{len(idle)} of {len(rows)} rows of {table.path} have no case in the data, such as that of {idle[0]}")
    if left:
        _note(
            f"{len(left)} of {len(cases)} cases of {card.name} are not in {table.path} and are left out: {left[0]}"
            + (", ..." if len(left) > 1 else "")
        )


def _note(text: str) -> None:
    note(f"note: {text}.")

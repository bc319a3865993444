"""Cases that a table lists by their image and mask files, however these are named."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlla_seg.data.card import Card
from mlla_seg.data.cases import LONGEST, Case
from mlla_seg.data.cohort import entry_of, settled, table_of
from mlla_seg.data.csv_table import Row, Table
from mlla_seg.data.formats.vector_sources import is_vector
from mlla_seg.data.tree import stem_of
from mlla_seg.errors import InputError
from mlla_seg.progress import note


@dataclass(frozen=True)
class _Listed:
    """An image with its mask, and the row of the table that lists them."""

    row: Row
    images: tuple[Path, ...]
    mask: Path


def listed_cases(card: Card, root: Path) -> list[Case]:
    """Return the cases of a table whose rows name an image and a mask below the root.

    A case is named by the card's column ``case``, otherwise by its image file; with its folders if file names repeat.

    Raises:
        InputError: A file is listed twice or outside the root, or none of the files exists.
    """
    table = table_of(card, root)
    how = card.splits
    columns = how.image if isinstance(how.image, tuple) else (how.image or "",)
    mask = how.mask or ""
    listed: list[_Listed] = []
    rows: dict[tuple[str, ...], Row] = {}
    missing, partial, repeated = [], [], []
    for row in table.rows:
        cells = tuple(row.cells[column] for column in (*columns, mask))
        if not all(cells):
            partial.append(row)
            continue
        *images, labels = (_below(root, cell, table, row) for cell in cells)
        if absent := next((path for path in (*images, labels) if not os.path.exists(path)), None):
            missing.append((row, absent))
            continue
        same = rows.setdefault(cells[:-1], row)
        if same is not row:
            if same.cells != row.cells:
                raise InputError(f"{table.path}: line {same.line} and line {row.line} both list {cells[0]} and differ.")
            repeated.append(row)
            continue
        listed.append(_Listed(row, tuple(images), labels))
    if not listed:
        example = f", such as {missing[0][1]}" if missing else ""
        raise InputError(
            f"{table.path}: none of its {len(table.rows)} rows has an image and a mask that exist{example}."
        )
    for found, what in (
        (partial, f"lack an entry in {' or '.join((*columns, mask))} and are left out"),
        (repeated, "repeat another and are left out"),
        ([row for row, _ in missing], "name files that do not exist and are left out"),
    ):
        if found:
            example = f" ({missing[0][1]})" if missing and found[0] is missing[0][0] else ""
            note(f"note: {len(found)} rows of {table.path} {what}, such as line {found[0].line}{example}.")
    _note_shared_masks(table, listed)
    cases = []
    for one, name in zip(listed, _names(card, table, root, listed), strict=True):
        entry = entry_of(card, table, one.row)
        cases.append(
            Case(
                name,
                entry.patient or name,
                (one.images,),
                (one.mask,),
                split=entry.split,
                fold=entry.fold,
                facts=entry.facts,
            )
        )
    return settled(card, table, cases)


def _below(root: Path, cell: str, table: Table, row: Row) -> Path:
    """Return the file of a cell, which must lie below the root."""
    path = Path(cell) if os.path.exists(root / cell) else Path(cell.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        path = path.relative_to(root.absolute())
    if path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"{table.path}, line {row.line}: {cell} leads outside {root}. Give paths below --data.root, or the folder "
            "above all files as --data.root."
        )
    return root / path


def _names(card: Card, table: Table, root: Path, listed: Sequence[_Listed]) -> list[str]:
    """Return the name of each case."""
    stems = [stem_of(one.images[0].relative_to(root).as_posix()) for one in listed]
    last = [PurePosixPath(stem).name for stem in stems]
    names = last if len(set(last)) == len(last) else stems
    if card.splits.case is not None:
        names = [one.row.cells[card.splits.case] or name for one, name in zip(listed, names, strict=True)]
    names = [name.replace("/", "_").replace("\\", "_") for name in names]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{table.path}: {count} rows are about a case called {name}. Give each a name in another column."
        )
    for one, name in zip(listed, names, strict=True):
        if len(name.encode()) > LONGEST or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise InputError(
                f"{table.path}, line {one.row.line}: {name[:40]!r} cannot name a case: at most {LONGEST} bytes, and no "
                "control character."
            )
    return names


def _note_shared_masks(table: Table, listed: Sequence[_Listed]) -> None:
    """Note masks that several images share, which may be a slip."""
    lines = defaultdict(list)
    for one in listed:
        lines[one.mask].append(one.row.line)
    if shared := [(mask, several) for mask, several in lines.items() if len(several) > 1 and not is_vector(mask)]:
        mask, several = shared[0]
        note(
            f"note: {len(shared)} masks of {table.path} belong to several images, such as {mask.name} in lines "
            f"{several[0]} and {several[1]}."
        )

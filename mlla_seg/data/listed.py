"""Cases that a table lists by their image and mask files, however these are named."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

from mlla_seg.data.card import Card
from mlla_seg.data.cases import LONGEST, Case
from mlla_seg.data.cohort import entry_of, settled, table_of
from mlla_seg.data.csv_table import Row, Table
from mlla_seg.data.formats.vector_sources import is_vector
from mlla_seg.data.tree import stem_of
from mlla_seg.errors import InputError
from mlla_seg.progress import note


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
    files: dict[int, tuple[tuple[Path, ...], Path]] = {}
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
        files[row.line] = (tuple(images), labels)
    if not files:
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
    _note_shared_masks(table, files)
    used = {row.line: row for row in rows.values()}
    names = _names(card, table, root, {line: used[line] for line in files}, files)
    cases = []
    for line, (images_of, mask_of) in files.items():
        entry = entry_of(card, table, used[line])
        name = names[line]
        kept = {"split": entry.split, "fold": entry.fold, "facts": entry.facts}
        cases.append(Case(name, entry.patient or name, (images_of,), (mask_of,), **kept))  # type: ignore[arg-type]
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


def _names(
    card: Card, table: Table, root: Path, rows: dict[int, Row], files: dict[int, tuple[tuple[Path, ...], Path]]
) -> dict[int, str]:
    """Return the name of the case of each line."""
    stems = {line: stem_of(images[0].relative_to(root).as_posix()) for line, (images, _) in files.items()}
    last = {line: PurePosixPath(stem).name for line, stem in stems.items()}
    names = last if len(set(last.values())) == len(last) else stems
    if card.splits.case is not None:
        names = {line: row.cells[card.splits.case] or names[line] for line, row in rows.items()}
    names = {line: name.replace("/", "_").replace("\\", "_") for line, name in names.items()}
    name, count = Counter(names.values()).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{table.path}: {count} rows are about a case called {name}. Give each a name in another column."
        )
    for line, name in names.items():
        if len(name.encode()) > LONGEST or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
            raise InputError(
                f"{table.path}, line {line}: {name[:40]!r} cannot name a case: at most {LONGEST} bytes, and no control "
                "character."
            )
    return names


def _note_shared_masks(table: Table, files: dict[int, tuple[tuple[Path, ...], Path]]) -> None:
    """Note masks that several images share, which may be a slip."""
    lines = defaultdict(list)
    for line, (_, mask) in files.items():
        lines[mask].append(line)
    if shared := [(mask, several) for mask, several in lines.items() if len(several) > 1 and not is_vector(mask)]:
        mask, several = shared[0]
        note(
            f"note: {len(shared)} masks of {table.path} belong to several images, such as {mask.name} in lines "
            f"{several[0]} and {several[1]}."
        )

"""Tables with a header line, as spreadsheets and statistics programs save them: CSV with any usual separator."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlla_seg.errors import InputError
from mlla_seg.texts import read_text

SEPARATORS = ",;\t"


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    line: int
    """Line of the file, from 1, in which the row ends."""
    cells: Mapping[str, str]
    """Cells by column, without surrounding blanks; empty where the table has none."""


@dataclass(frozen=True)
class Table:
    """A table with a header."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(path: Path) -> Table:
    """Read a table whose cells are separated by commas, semicolons or tabs, whichever the header has most of.

    Byte-order marks, quoted cells and Excel's first line ``sep=;`` are understood. Rows without any content are left
    out, as are columns without a name.

    Raises:
        InputError: The file is not such a table.
    """
    text = _text(path)
    if chosen := re.match(r'"?sep=(.)"?\n', text):
        separator, text = chosen[1], "\n" + text[chosen.end() :]  # keeps the numbers of lines
    else:
        header = re.sub(r'"[^"]*"', "", next((line for line in text.split("\n") if line.strip()), ""))
        separator = max(SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns: list[str] = []
    rows = []
    try:
        for found in reader:
            cells = [cell.strip() for cell in found]
            if not any(cells):
                continue
            if not columns:
                columns = cells
                continue
            if any(cells[len(columns) :]):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, but the header has {len(columns)}. Quote "
                    f"cells that hold the separator {separator!r}."
                )
            filled = cells + [""] * (len(columns) - len(cells))
            rows.append(Row(reader.line_num, {key: cell for key, cell in zip(columns, filled, strict=False) if key}))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: is not valid CSV ({error}).") from error
    named = [name for name in columns if name]
    if repeated := next((name for name in named if named.count(name) > 1), None):
        raise InputError(f"{path}: the header has the column {repeated} twice. Rename one of them.")
    if not rows:
        raise InputError(f"{path}: has no row below its header. The first line must name the columns.")
    return Table(path, tuple(named), tuple(rows))


def _text(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise InputError(f"{path}: is a workbook, not a CSV file. Save its sheet as 'CSV UTF-8'.")
    text = read_text(path, "surrogateescape")
    if bad := next((n for n, line in enumerate(text.split("\n"), 1) if not _is_valid(line)), None):
        raise InputError(f"{path}, line {bad}: is not UTF-8. Save the table as 'CSV UTF-8'.")
    return text


def _is_valid(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)

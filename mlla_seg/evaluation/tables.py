"""Tables for the terminal and as CSV, and JSON files.

Spreadsheets run a cell such as ``=cmd()`` as a formula, whoever wrote it. A CSV written here has an apostrophe before
such a text, which :func:`read_csv` takes away again.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlla_seg.atomic import renamed_when_done
from mlla_seg.errors import InputError
from mlla_seg.texts import read_text
from mlla_seg.visible import visible

NEGATIVE = re.compile(r"-(\d+(\.\d*)?(e[+-]?\d+)?|inf)")
"""A number as Python writes it, which is not a formula."""
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""First characters by which a spreadsheet takes a cell for a formula; the last four are full-width forms."""
BYTES = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
"""How CSV files are opened: bytes of file names that are not UTF-8 are kept."""


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as CSV; NaN becomes an empty field, and a formula a text."""
    with renamed_when_done(path) as temporary, temporary.open("w", **BYTES) as file:  # type: ignore[call-overload]
        writer = csv.writer(file)
        writer.writerow(map(_cell, rows[0]))
        writer.writerows([_cell(row[key]) for key in rows[0]] for row in rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with their texts as :func:`write_csv` was given them.

    Raises:
        InputError: It is not a CSV file in UTF-8.
    """
    lines = io.StringIO(read_text(path, "surrogateescape", line_feeds=False), newline="")
    try:
        header, *rows = [[_text(cell) for cell in row] for row in csv.reader(lines)] or [[]]
    except csv.Error as error:
        raise InputError(f"{path} is not valid CSV: {error}.") from error
    if wrong := [number for number, row in enumerate(rows, 2) if len(row) != len(header)]:
        raise InputError(f"{path} is not complete: row {wrong[0]} has other columns than its header.")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _cell(value: Any) -> Any:
    if _is_nan(value):
        return ""
    return f"'{value}" if isinstance(value, str) and _is_formula(value.lstrip("'")) else value


def _text(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _is_formula(cell.lstrip("'")) else cell


def _is_formula(text: str) -> bool:
    return text.startswith(FORMULA) and not NEGATIVE.fullmatch(text)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; NaN becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [plain(entry) for entry in value]
        return None if _is_nan(value) else value

    with renamed_when_done(path) as temporary:
        temporary.write_text(json.dumps(plain(content), indent=2) + "\n", encoding="utf-8")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def format_cell(value: Any) -> str:
    """Format a float with four decimals (two from 10 on) and NaN as a dash; return other values as text."""
    if not isinstance(value, float):
        return visible(str(value))
    return "-" if math.isnan(value) else f"{value:.{4 if abs(value) < 10 else 2}f}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a plain-text table: first column left-aligned, others right-aligned, NaN as a dash."""
    cells = [[format_cell(value) for value in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            value.ljust(width) if i == 0 else value.rjust(width)
            for i, (value, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

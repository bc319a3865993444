"""Tables for the terminal and as CSV, and JSON files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlla_seg.atomic import renamed_when_done


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as CSV; NaN becomes an empty field."""
    with renamed_when_done(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if _is_nan(value) else value for key, value in row.items()})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; NaN becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        return None if _is_nan(value) else value

    with renamed_when_done(path) as temporary:
        temporary.write_text(json.dumps(plain(content), indent=2) + "\n")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def format_cell(value: Any) -> str:
    """Format a float with four decimals (two from 10 on) and NaN as a dash; return other values as text."""
    if not isinstance(value, float):
        return str(value)
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

"""Self-contained HTML pages: tables and embedded images, without scripts or external links."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlla_seg.atomic import renamed_when_done
from mlla_seg.evaluation.tables import format_cell
from mlla_seg.visible import visible

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
tr.last td { font-weight: 600 }
img { max-width: 100% } figure { margin: 0 0 1.2rem } figcaption, .note { color: #555; font-size: 0.9rem }
pre { background: #f5f5f5; padding: 0.8rem; overflow-x: auto; font-size: 0.85rem } .wide { overflow-x: auto }
"""


def escape(text: str) -> str:
    """Return a text as a page shows it, also one with tags or escape codes."""
    return html.escape(visible(text, keep="\n"))


def heading(text: str) -> str:
    """Return a section heading."""
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    """Return an explanatory paragraph."""
    return f'<p class="note">{escape(text)}</p>'


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], last: bool = False) -> str:
    """Return a table, its first column left-aligned, the others right-aligned; ``last`` highlights the last row."""
    lines = ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr>"]
    for i, row in enumerate(rows):
        opening = '<tr class="last">' if last and i == len(rows) - 1 else "<tr>"
        lines.append(opening + "".join(f"<td>{escape(format_cell(value))}</td>" for value in row) + "</tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def picture(draw: Callable[[io.BytesIO], None], caption: str) -> str:
    """Return an embedded image; ``draw`` writes a PNG to the file object it is given."""
    file = io.BytesIO()
    draw(file)
    return figure(file.getvalue(), caption)


def figure(image: bytes | str, caption: str) -> str:
    """Return an embedded image: bytes of a PNG, or the text of an SVG."""
    kind, data = ("png", image) if isinstance(image, bytes) else ("svg+xml", image.encode())
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<figure><img alt="{escape(caption)}" src="{source}"><figcaption>{escape(caption)}</figcaption></figure>'


def folded(title: str, content: str) -> str:
    """Return a collapsible section."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def code(text: str) -> str:
    """Return preformatted text, such as a configuration."""
    return f"<pre>{escape(text)}</pre>"


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write the page atomically."""
    body = "\n".join(parts)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )
    with renamed_when_done(path) as temporary:
        temporary.write_text(page, encoding="utf-8")

"""Text files, as editors and shells on all systems save them."""

from __future__ import annotations

import codecs
from pathlib import Path

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """Return the text of a file, whatever the ends of its lines, with line feeds between them.

    Byte-order marks are accepted. Bytes that are not UTF-8 are kept as Python keeps them in file names, so that they
    still name a file.
    """
    content = path.read_bytes()
    if content.startswith(UTF16):  # as PowerShell writes
        text = content.decode("utf-16", "replace")
    else:
        text = content.decode("utf-8-sig", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file without surrounding blanks, and without empty lines; see :func:`read_text`."""
    lines = (line.strip() for line in read_text(path).split("\n"))
    return [line for line in lines if line]

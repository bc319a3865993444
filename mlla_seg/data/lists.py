"""Text files with one entry per line, as editors and shells on all systems save them."""

from __future__ import annotations

import codecs
from pathlib import Path

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file without surrounding blanks, and without empty lines.

    Byte-order marks and line ends of any system are accepted. Bytes that are not UTF-8 are kept as Python keeps them in
    file names, so that they still name a file.
    """
    content = path.read_bytes()
    if content.startswith(UTF16):  # as PowerShell writes
        text = content.decode("utf-16", "replace")
    else:
        text = content.decode("utf-8-sig", "surrogateescape")
    lines = (line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return [line for line in lines if line]

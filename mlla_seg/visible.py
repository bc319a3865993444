"""Names as they are shown: what a terminal, a page or a picture would obey or could not write is spelled out.

Names of files may hold anything but ``/`` and NUL: line breaks, codes that move a terminal's cursor, marks that reverse
the direction of writing, and bytes that are not UTF-8, which Python keeps as surrogates.
"""

from __future__ import annotations

import re
import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of Unicode that are spelled out: controls, formats such as changes of direction, surrogates, line ends."""
MARKUP = re.compile(r"([\\`|<>\[\]*&$])")
"""Signs that Markdown, or HTML within it, may obey."""
JOINERS = "\u200c\u200d"
"""Formats that stay, because Persian, Indic scripts and emoji are written with them."""


def visible(text: str, keep: str = "") -> str:
    r"""Return a text in which signs without a shape are spelled out, such as ``\n``, ``\x1b`` and ``\u202e``.

    Args:
        text: Any text; bytes of a file name that are not UTF-8 are spelled out as such, for example ``\xe9``.
        keep: Signs to keep, such as the line breaks of a table.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign in keep or not is_hidden(sign) else _spelled(sign) for sign in text)


def in_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, also within a table."""
    return MARKUP.sub(r"\\\1", visible(text))


def is_hidden(sign: str) -> bool:
    """Return whether a sign has no shape of its own, other than a blank."""
    return unicodedata.category(sign) in HIDDEN and sign not in JOINERS


def _spelled(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # a byte of a file name
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode("ascii")

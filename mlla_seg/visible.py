"""Names as they are shown: characters that a terminal, page or picture would obey or cannot show are spelled out.

Names of files may hold anything but ``/`` and NUL: line breaks, codes that move a terminal's cursor, marks that reverse
the direction of writing, and bytes that are not UTF-8, which Python keeps as surrogates.
"""

from __future__ import annotations

import re
import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of Unicode that are spelled out: controls, formats such as changes of direction, surrogates, line ends."""
MARKUP = re.compile(r"([\\`|<>\[\]*&$])")
"""Characters that Markdown, or HTML within it, may interpret."""
JOINERS = "\u200c\u200d"
"""Formats that stay, because Persian, Indic scripts and emoji are written with them."""


def visible(text: str, keep: str = "") -> str:
    r"""Return a text in which invisible characters are spelled out, such as ``\n``, ``\x1b`` and ``\u202e``.

    Args:
        text: Any text; bytes of a file name that are not UTF-8 are spelled out as such, for example ``\xe9``.
        keep: Characters to keep, such as the line breaks of a table.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character in keep or not is_hidden(character) else _spelled(character) for character in text
    )


def in_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, also within a table."""
    return MARKUP.sub(r"\\\1", visible(text))


def is_hidden(character: str) -> bool:
    """Return whether a character is invisible, other than a blank."""
    return unicodedata.category(character) in HIDDEN and character not in JOINERS


def _spelled(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")

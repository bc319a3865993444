"""The one exception that is a message to the user, whom it is about, and the lookup that suggests what they meant."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")
MOST_NAMES = 20


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says what was found and where, what was expected and what to do next, in one or two lines. The command
    line prints it without a traceback and exits with status 2; from Python it is an ordinary ``ValueError``.
    """


def program() -> str:
    """How users call the program here, for messages."""
    called = Path(sys.argv[0])
    if called.name.startswith("mlla-seg"):
        return "mlla-seg"
    if called.name == "__main__.py" and called.parent.name == "mlla_seg":
        return "python -m mlla_seg"
    return "python cli.py" if called.name == "cli.py" or Path("cli.py").is_file() else "mlla-seg"


@contextmanager
def about(what: str | Path) -> Iterator[None]:
    """Puts the name of a file or a case before what is said against it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def lookup(table: Mapping[str, Value], name: str, kind: str) -> Value:
    """Returns ``table[name]``, or answers with the near and the known names.

    Args:
        table: A registry: a dict literal from names to what they stand for.
        name: The name the user gave.
        kind: What the table lists, for the message, such as ``"encoder"``.

    Raises:
        InputError: ``name`` is not in the table.
    """
    if name in table:
        return table[name]
    raise InputError(unknown(table, name, kind))


def unknown(names: Iterable[str], name: str, kind: str) -> str:
    """Says that a name is not among those that are known, and which are near; see :func:`lookup`."""
    names = list(names)
    near = get_close_matches(str(name), names, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    known = ", ".join(names[:MOST_NAMES]) + (f", ... ({len(names)} in all)" if len(names) > MOST_NAMES else "")
    return f"Unknown {kind} {name!r}.{hint} Known: {known}."

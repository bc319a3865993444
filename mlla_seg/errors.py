"""Exception for user errors, and registry lookups that suggest similar names."""

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
    """Invalid user input.

    The message states what was found and where, what was expected and what to do next, in one or two sentences. The
    command line prints it without a traceback and exits with status 2; in Python it is an ordinary ``ValueError``.
    """


def program() -> str:
    """Return the command by which the user called the program, for messages."""
    called = Path(sys.argv[0])
    if called.name.startswith("mlla-seg"):
        return "mlla-seg"
    if called.name == "__main__.py" and called.parent.name == "mlla_seg":
        return "python -m mlla_seg"
    return "python cli.py" if called.name == "cli.py" or Path("cli.py").is_file() else "mlla-seg"


@contextmanager
def about(what: object) -> Iterator[None]:
    """Prefix the message of an :class:`InputError` with the name of a file or case."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


@contextmanager
def followed_by(advice: str) -> Iterator[None]:
    """Append what to do next to the message of an :class:`InputError`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error} {advice}") from error


def lookup(table: Mapping[str, Value], name: str, kind: str) -> Value:
    """Return ``table[name]``, or raise an error that lists similar and known names.

    Args:
        table: Registry: a dict from names to values.
        name: Name given by the user.
        kind: What the names refer to, for the message, such as ``"encoder"``.

    Raises:
        InputError: ``name`` is not in the table.
    """
    if name in table:
        return table[name]
    raise InputError(unknown(table, name, kind))


def unknown(names: Iterable[str], name: str, kind: str) -> str:
    """Return the message for an unknown name, with similar and known names; see :func:`lookup`."""
    names = list(names)
    near = get_close_matches(str(name), names, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    known = ", ".join(names[:MOST_NAMES]) + (f", ... ({len(names)} in all)" if len(names) > MOST_NAMES else "")
    return f"Unknown {kind} {name!r}.{hint} Known: {known}."

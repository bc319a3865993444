"""Everything that is printed: results, notes, errors, progress bars; and suppression of other libraries' messages.

Characters that a terminal would obey rather than show are spelled out here (see :mod:`mlla_seg.visible`), so no other
module prints. tqdm is optional, because the runtime does not depend on it.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import Any

from mlla_seg.visible import visible

STARTED = time.time()
"""Approximate start of this program: this module is imported before any library that takes seconds to load."""
LONGEST = 2000
"""Most characters of a line of an error, which may repeat what a user has typed."""
_silent = False


class NoBar:
    """Placeholder for a progress bar when tqdm is not installed."""

    def __enter__(self) -> NoBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, count: int = 1) -> None:
        """Do nothing."""


def progress(total: int, title: str, unit: str, leave: bool = True, show: bool = True, initial: int = 0) -> Any:
    """Return a progress bar: a context manager with a method ``update(count)``."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return NoBar()
    hidden = not show or _silent
    return tqdm(desc=visible(title), total=total, unit=unit, leave=leave, disable=hidden, initial=initial)


def say(text: str) -> None:
    """Print lines to stdout, at once also where it is a file or a pipe."""
    if _silent:
        return
    text = visible(text, keep="\n")
    encoding = sys.stdout.encoding or "utf-8"  # of the terminal, which may lack characters
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def note(text: str) -> None:
    """Print a line to stderr above active progress bars; a line break in a name is spelled out."""
    if not _silent:
        _to_stderr(visible(text))


def note_own(text: str) -> None:
    """Print a note about this process alone, even if another process prints for all."""
    _to_stderr(visible(text))


@contextmanager
def silent() -> Iterator[None]:
    """Print nothing but errors and notes about this process, while another process prints for all."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


def complain(message: str) -> None:
    """Print an error, which may have several lines, to stderr; of long lines, beginning and end are shown."""
    lines = (
        line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
        for line in message.split("\n")
    )
    _to_stderr(visible("error: " + "\n".join(lines), keep="\n"))


@cache
def note_once(text: str) -> None:
    """Print a note that this process has not printed yet."""
    note(text)


def note_files(names: Sequence[str], where: str, what: str) -> None:
    """Note what becomes of some files, with their number and the first few names."""
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        note(f"note: {len(names)} files in {where} {what}: {shown}")


def _to_stderr(text: str) -> None:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        print(text, file=sys.stderr)
    else:
        tqdm.write(text, file=sys.stderr)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and log messages, such as those of exporters and compilers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

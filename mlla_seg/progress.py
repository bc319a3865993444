"""What long work shows: a bar, where tqdm is there to draw it, and nothing of other libraries' insides.

The runtime does without tqdm.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any


class NoBar:
    """Shows nothing."""

    def __enter__(self) -> NoBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, count: int = 1) -> None:
        """Does nothing."""


def progress(total: int, title: str, unit: str, leave: bool = True, show: bool = True, initial: int = 0) -> Any:
    """A bar with the time left, to be used in ``with`` and moved on by ``update(count)``."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return NoBar()
    return tqdm(desc=title, total=total, unit=unit, leave=leave, disable=not show, initial=initial)


def note(text: str) -> None:
    """Says something in a line of its own, above the bars that are shown."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what exporters and compilers say of their own insides from users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

"""Progress bars, where tqdm is there to draw them: the runtime does without."""

from __future__ import annotations

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

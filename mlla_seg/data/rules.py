"""Rules for values that come from files: which ones a key may have, in words and as a test.

Plain Python rather than pydantic, which cards use, because the runtime of exported networks needs NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from reprlib import Repr
from typing import Any

from mlla_seg.errors import InputError, lookup, unknown

Test = Callable[[Any], bool]
LONGEST = 1000
"""Largest number of characters of a name."""
_short = Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


@dataclass(frozen=True)
class Rule:
    """What the value of a key may be.

    Args:
        fits: Whether a value is allowed; called with any object.
        expected: The allowed values, for messages.
        known: The allowed names, if values are names, from which messages suggest similar ones.
    """

    fits: Test
    expected: str
    known: Sequence[str] = ()


def require(content: Any, rules: Mapping[str, Rule], where: str, part: str = "") -> None:
    """Check a mapping; keys that are absent pass.

    Args:
        content: What was read.
        rules: Rule of each known key.
        where: File name for messages.
        part: Name of the part of the file, such as ``normalisation``.

    Raises:
        InputError: It is no mapping, a key is unknown, or a value breaks its rule.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: {part or 'its content'} is {shown(content)}, expected keys with values.")
    of = f" of {part}" if part else ""
    for key, value in content.items():
        rule = lookup(rules, key, f"key{of} in {where}:")
        if not rule.fits(value):
            if rule.known and text(value):
                raise InputError(unknown(rule.known, value, f"{key}{of} in {where}:"))
            raise InputError(f"{where}: {key}{of} is {shown(value)}, expected {rule.expected}.")


def shown(value: Any) -> str:
    """Return a value as text of bounded length, without line breaks and control characters."""
    try:
        return _short.repr(value)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits
        return f"a {type(value).__name__}"


def flag(value: Any) -> bool:
    """Whether a value is true or false."""
    return isinstance(value, bool)


def text(value: Any) -> bool:
    """Whether a value is a text that can be written as UTF-8."""
    if not isinstance(value, str) or len(value) > LONGEST:
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def any_number(value: Any) -> bool:
    """Whether a value is a number, NaN and infinity included."""
    return isinstance(value, Real) and not isinstance(value, bool) and _as_float(value) is not None


def number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return any_number(value) and math.isfinite(value)


def whole(low: int, high: int) -> Test:
    """Return the test for whole numbers from ``low`` to ``high``."""
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high


def above(low: float, high: float = math.inf) -> Test:
    """Return the test for numbers above ``low``, up to ``high``."""
    return lambda value: number(value) and low < value <= high


def one_of(known: Iterable[Any]) -> Test:
    """Return the test for known names."""
    names = list(known)
    return lambda value: isinstance(value, str) and value in names


def optional(fits: Test) -> Test:
    """Return a test that None passes too."""
    return lambda value: value is None or fits(value)


def either(*tests: Test) -> Test:
    """Return the test for values that pass one of several tests."""
    return lambda value: any(fits(value) for fits in tests)


def list_of(fits: Test, least: int = 0, most: float = math.inf) -> Test:
    """Return the test for lists of ``least`` to ``most`` values that each pass a test."""
    return lambda value: isinstance(value, (list, tuple)) and least <= len(value) <= most and all(map(fits, value))


def _as_float(value: Any) -> float | None:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond the range of floats
        return None

"""Seeded mutations of nested plain contents, such as specs: each changes one value, deletes a key or adds one."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 0.5, -0.5, 10**9, 2**64, 10**400, 1e308, math.nan, math.inf, -math.inf),
    *("", "x", "3", "null", "../../etc", "a\x1b[2Jb\n", "\ud800", "background", "mlla_test", "y" * 5000),
    *([], [0], [None], [-1, 7], [1, 2, 3], [1.5, "x"], [[1]], {}, {"x": 1}, {"name": "x"}, [[[[[[[]]]]]]]),
)
"""Values that take the place of others."""


def places(content: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in nested dicts and lists."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*here, key)
        yield from places(value, (*here, key))


def mutated(content: dict[str, Any], seed: int) -> tuple[dict[str, Any], str]:
    """Return a copy with one mutation, and its description. Seeds below the number of places visit each in turn."""
    draw = random.Random(seed)
    found = list(places(content))
    path = found[seed % len(found)]
    content = copy.deepcopy(content)
    inner: Any = content
    for key in path[:-1]:
        inner = inner[key]
    kind = draw.choice(("replace", "replace", "replace", "delete", "add", "double", "negate"))
    value = inner[path[-1]]
    if kind == "delete":
        del inner[path[-1]]
    elif kind == "add":
        target = value if isinstance(value, (dict, list)) else inner
        extra = copy.deepcopy(draw.choice(VALUES))
        target.append(extra) if isinstance(target, list) else target.update({draw.choice(("", "x", "Name")): extra})
    elif kind == "double" and isinstance(value, (list, str)):
        inner[path[-1]] = value + value
    elif kind == "negate" and isinstance(value, (int, float)):
        inner[path[-1]] = -value if value else 2**31
    else:
        inner[path[-1]] = copy.deepcopy(draw.choice(VALUES))
    return content, f"seed {seed}: {kind} {'/'.join(map(str, path))}"

"""The attribute of polygons that tells their class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mlla_seg.data.formats.vector_sources import open_layer
from mlla_seg.data.polygon_labels import survey

MOST = 50
"""Different values above which an attribute names no classes."""
USUAL = re.compile(r"class|label|categor|type|landuse|landcover|kind|species|crop|name|value|code", re.IGNORECASE)
MOST_UNNAMED = 0.5
"""Fraction of the polygons that may lack a value of the attribute."""
TYPES = ("object", "int")
"""Beginnings of the types of attributes that may name classes."""


def survey_polygons(files: Sequence[Path]) -> tuple[str | None, Counter[str]]:
    """Return the attribute that tells the class, and the polygons by its value; the empty value is that of no class.

    It is an attribute of all files with not too many values, preferably with several, with a usual name, for every
    polygon, and with the fewest values. One that most polygons or unusual names lack a value for tells nothing, and
    neither does a single value, unless it is a word under a usual name. Without an attribute, all polygons are counted
    as one kind.
    """
    layers = [open_layer(path) for path in files]
    shared = {
        name: kind
        for name, kind in layers[0].fields.items()
        if kind.startswith(TYPES) and all(name in layer.fields for layer in layers)
    }
    counted = {name: Counter[str]() for name in shared}
    for path in files:
        for name, counts in counted.items():
            counts.update(survey(open_layer(path, attribute=name)).values)
    best = min(
        (name for name in shared if _tells(name, counted[name])),
        key=lambda name: (
            len(kinds(counted[name])) == 1,
            not USUAL.search(name),
            "" in counted[name],
            len(counted[name]),
            name,
        ),
        default=None,
    )
    if best is None:
        return None, Counter({"": sum(survey(layer).polygons for layer in layers)})
    return best, counted[best]


def kinds(counts: Counter[str]) -> list[str]:
    """Return the values of an attribute, the most frequent first."""
    return [value for value, _ in counts.most_common() if value]


def _tells(name: str, counts: Counter[str]) -> bool:
    """Return whether an attribute may tell the class of polygons."""
    found, usual = kinds(counts), bool(USUAL.search(name))
    if counts[""] and not (usual and counts[""] <= MOST_UNNAMED * counts.total()):
        return False
    return 1 < len(found) <= MOST or (len(found) == 1 and usual and not counts[""] and not _is_number(found[0]))


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdecimal()

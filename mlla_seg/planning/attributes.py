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
TYPES = ("object", "int")
"""Beginnings of the types of attributes that may name classes."""


def survey_polygons(files: Sequence[Path]) -> tuple[str | None, Counter[str]]:
    """Return the attribute that tells the class, and the polygons by its value.

    It is the attribute of all files with more than one value and not too many, preferably with a usual name, then with
    the fewest values. Without one, all polygons are counted as one kind.
    """
    layers = [open_layer(path) for path in files]
    shared = [
        name
        for name, kind in layers[0].fields.items()
        if kind.startswith(TYPES) and all(name in layer.fields for layer in layers)
    ]
    counted = {name: Counter[str]() for name in shared}
    for path in files:
        for name, counts in counted.items():
            counts.update(survey(open_layer(path, attribute=name)).values)
    fit = {name: counts for name, counts in counted.items() if 1 < len(counts) <= MOST and "" not in counts}
    if not fit:
        return None, Counter({"": sum(survey(layer).polygons for layer in layers)})
    best = min(fit, key=lambda name: (not USUAL.search(name), len(fit[name]), name))
    return best, fit[best]

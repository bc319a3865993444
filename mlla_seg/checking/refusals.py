"""Findings on cases that cannot be read, by the kind of their error."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlla_seg.checking.findings import Finding
from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.formats.registry import read_mask
from mlla_seg.data.formats.vector_sources import is_vector
from mlla_seg.errors import InputError

KINDS = {
    "truncated": (
        r"(Copy|download) (it|the series) again|Copy or download|is cut short|pointer of Git LFS|It is a web page",
        "a file is incomplete",
    ),
    "missing": (r"does not exist|[Nn]o such file", "a file is missing"),
    "values": (
        r"^mask value|^colour \[|have a value of|expects colours",
        "the mask has values outside the classes of the card",
    ),
    "nan": (r"NaN or infinite", "the image has values that are NaN or infinite"),
    "channels": (
        r"has \d+ (different )?(channels|bands)|^its bands are",
        "the channels are not those of the card",
    ),
    "crs": (
        r"covers nothing of|cannot be warped|on another grid|has no geotransform|must both be georeferenced",
        "image and mask are not at the same place",
    ),
    "shape": (
        r"shape .* differs|expected (a volume|an array) with|is empty, with shape",
        "shapes do not match",
    ),
    "affine": (
        r"affine|geometry is unknown|have the same position|mm apart|gantry",
        "the positions of voxels do not match or are unknown",
    ),
    "unreadable": (
        r"cannot be read as|unknown format|this format needs|no array named|is a group|holds Python objects"
        r"|is damaged|Correct its header|its header claims",
        "cannot be read",
    ),
}
"""Kinds of errors: a pattern of messages without their path, and the kind in words. The first that fits is used."""
OTHER = "refused"


def kind_of(message: str) -> str:
    """Return the kind of an error of reading, whose message begins with the path of a file."""
    text = message.partition(": ")[2] or message
    return next((kind for kind, (pattern, _) in KINDS.items() if re.search(pattern, text)), OTHER)


def refusals(card: Card, problems: Mapping[str, str], cases: Mapping[str, Case]) -> list[Finding]:
    """Return a finding for each kind of error.

    Args:
        card: Card of the data.
        problems: Message by name of the case.
        cases: Cases by name.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, message in problems.items():
        kinds[kind_of(message)].append(name)
    found = []
    for kind in (*KINDS, OTHER):
        if names := kinds.get(kind):
            what = KINDS[kind][1] if kind in KINDS else "cannot be used"
            found.append(Finding("error", kind, what, tuple(names), tuple(problems[name] for name in names)))
    doubtful = [name for kind in ("values", "channels") for name in kinds[kind]]
    if swapped := [name for name in doubtful if _holds_classes(card, cases[name].images[0][0])]:
        advice = "These images have as few values as masks: pair them the other way round."
        found.append(Finding("warning", "swapped", "image and mask look swapped", tuple(swapped), advice=advice))
    return found


def excluded(problems: Mapping[str, str], cases: Mapping[str, Case], already: Mapping[str, str]) -> dict[str, str]:
    """Return the cases to exclude, each with a reason; those that the user excludes already come first.

    A case that consists of blocks is excluded by the name of its scene.
    """
    parts = {name: cases[name].part for name in problems}
    whole = {(part.scene if (part := parts[name]) else name): problems[name] for name in problems}
    return {**already, **{name: kind_of(message) for name, message in sorted(whole.items())}} if whole else {}


def _holds_classes(card: Card, path: Path) -> bool:
    """Return whether an image holds at least two values and only such as masks do."""
    if is_vector(path):
        return False
    try:
        values = np.unique(read_mask(path).array)
    except (InputError, OSError, ValueError):
        return False
    return looks_like_mask(values.tolist(), card)


def looks_like_mask(values: Sequence[float], card: Card) -> bool:
    """Return whether the distinct values of an image are so few whole numbers that it might be a mask."""
    return 2 <= len(values) <= len(card.classes) + 1 and all(float(value).is_integer() for value in values)

"""Regions in nnU-Net's ``dataset.json``: labels of several ids, which have no names for the single ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlla_seg.data.card_sections import CardClass
from mlla_seg.data.formats.classes import class_colour
from mlla_seg.data.regions import BACKGROUND, in_order, read_regions
from mlla_seg.data.spec_rules import LARGEST_ID
from mlla_seg.errors import InputError

IGNORE = "ignore"
"""Name of the label of voxels that are ignored."""


def regions_in(content: Mapping[str, Any], path: Path) -> dict[str, list[int]]:
    """Return ids by name of the region, without background; empty if every label has one id.

    Raises:
        InputError: An id is not a number, or masks could not be written back by ``regions_class_order``.
    """
    if all(str(key).isdigit() for key in content["labels"]):  # id -> name
        return {}
    labels = {name: _ids(name, value, path) for name, value in content["labels"].items() if name != IGNORE}
    if all(len(ids) == 1 for ids in labels.values()):
        return {}
    if [BACKGROUND] not in labels.values():
        raise InputError(f"{path}: labels have no background of id 0, which is what no region holds.")
    regions = {name: ids for name, ids in labels.items() if ids != [BACKGROUND]}
    names = names_in(content, regions)
    try:
        given = in_order(regions, content.get("regions_class_order"))
        read_regions(given, {value: k for k, value in enumerate(names)}, list(names.values()), BACKGROUND)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return regions


def names_in(content: Mapping[str, Any], regions: Mapping[str, Sequence[int]]) -> dict[int, str]:
    """Return a class name for each id; ids that lie in the same regions are one class.

    A class is named after the smallest regions around it, with "only" if these hold other ids too: where whole_tumor
    is [1, 2] and enhancing_tumor [2], id 1 is "whole_tumor only".
    """
    labels = content["labels"]
    names = {BACKGROUND: next(name for name, value in labels.items() if value in (BACKGROUND, [BACKGROUND]))}
    around = {value: [name for name in regions if value in regions[name]] for ids in regions.values() for value in ids}
    for value, own in sorted(around.items()):
        smallest = [name for name in own if not any(set(regions[other]) < set(regions[name]) for other in own)]
        alike = {other for other in around if around[other] == own}
        whole = len(smallest) == 1 and alike == set(regions[smallest[0]])
        names.setdefault(value, " and ".join(smallest) + ("" if whole else " only"))
    return names


def classes_of(names: Mapping[int, str], order: Sequence[int]) -> tuple[CardClass, ...]:
    """Return a class for each name with the ids that have it; masks are written with the first, one of ``order``."""
    ids: dict[str, list[int]] = {}
    for value in sorted(names, key=lambda value: (value not in order, value)):
        ids.setdefault(names[value], []).append(value)
    listed = sorted(ids.items(), key=lambda entry: entry[1][0])
    return tuple(CardClass(name, class_colour(k), tuple(values)) for k, (name, values) in enumerate(listed))


def _ids(name: str, value: Any, path: Path) -> list[int]:
    """Return the ids of a label: a number, also as text, or a list of them."""
    ids = value if isinstance(value, list) else [value]
    if not all(map(is_id, ids)):
        raise InputError(
            f"{path}: the label {name} is {value!r}, expected an id or a list of ids, whole numbers from 0 to "
            f"{LARGEST_ID}."
        )
    return sorted({int(one) for one in ids})


def is_id(value: Any) -> bool:
    """Return whether a value may be the id of a label: a whole number, also as text."""
    if isinstance(value, str):
        return value.isascii() and value.isdigit() and len(value) < 9 and int(value) <= LARGEST_ID
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_ID

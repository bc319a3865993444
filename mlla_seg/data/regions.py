"""Regions: overlapping unions of classes that a network segments in their place, as in nnU-Net's region-based training.

Cards and ``dataset.json`` name the mask values of each region, and the one that it writes::

    regions: {whole_tumor: [1, 2, 3], tumor_core: [2, 3], enhancing_tumor: [3]}
    regions_class_order: [1, 2, 3]

The network has one output with a sigmoid per region. A pixel becomes the class that is written by the last region
whose probability exceeds 0.5, or background outside of all regions. This module does not need torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlla_seg.data.rules import shown, text
from mlla_seg.errors import InputError

BACKGROUND = 0
"""Index of the background class of data with regions: what no region holds."""


@dataclass(frozen=True)
class Region:
    """A region: its name, the indices of its classes, and the index of the class that it writes."""

    name: str
    classes: tuple[int, ...]
    writes: int


def in_order(regions: Any, order: Any) -> list[dict[str, Any]]:
    """Return the regions of a card or ``dataset.json`` one by one, as :func:`read_regions` takes them.

    Args:
        regions: Mask values by name of the region, ``{name: [value, ...]}``.
        order: ``regions_class_order``: the mask value that each region writes.

    Raises:
        InputError: There is not one value for each region.
    """
    if not isinstance(order, (list, tuple)) or len(order) != len(regions):
        found = "missing" if order is None else repr(order)
        raise InputError(
            f"regions_class_order is {found}; expected {len(regions)} mask values, the one that each region writes: "
            f"{', '.join(map(str, regions))}."
        )
    return [
        {"name": str(name), "ids": [values] if isinstance(values, int) else list(values), "writes": value}
        for (name, values), value in zip(regions.items(), order, strict=True)
    ]


def read_regions(
    given: Any, ids: Mapping[int, int], names: Sequence[str], background: int | None
) -> tuple[Region, ...]:
    """Return regions from plain types, in their order.

    Args:
        given: ``{"name": str, "ids": mask values, "writes": mask value}`` for each region.
        ids: Class index by mask value.
        names: Class names.
        background: Index of the background class, which must be ``BACKGROUND``.

    Raises:
        InputError: A region is empty or holds an unknown value, or labels could not be written back.
    """
    keys = {"name", "ids", "writes"}
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(one, Mapping) and set(one) == keys and text(one["name"]) for one in given
    ):
        raise InputError(f"regions is {shown(given)}, expected a list of mappings with the keys name, ids and writes.")
    if given and background != BACKGROUND:
        raise InputError(f"with regions the first class must be the background, found {names[0]}.")
    for i, one in enumerate(given):
        for other in given[:i]:
            if one["name"] == other["name"] or one["writes"] == other["writes"]:
                raise InputError(
                    f"regions_class_order: {other['name']} writes {shown(other['writes'])} and {one['name']} "
                    f"{shown(one['writes'])}; "
                    "each region needs a name and a value of its own."
                )
    found = [_region(one["name"], one["ids"], one["writes"], ids, names) for one in given]
    for i, region in enumerate(found):
        if over := [later.name for later in found[i + 1 :] if region.writes in later.classes]:
            raise InputError(
                f"regions_class_order: {region.name} writes {given[i]['writes']}, which the later region {over[0]} "
                "would overwrite, as it holds it. List large regions first, each with a value that no later one holds."
            )
    return tuple(found)


def _region(name: str, values: Any, writes: Any, ids: Mapping[int, int], names: Sequence[str]) -> Region:
    if not values or not isinstance(values, (list, tuple)):
        raise InputError(f"the region {name} is {shown(values)}, expected a list of mask values.")
    for value in values:
        if value not in [*ids] or ids[value] == BACKGROUND:  # a list, as value may be of any type
            known = ", ".join(f"{known} {names[k]}" for known, k in ids.items() if k != BACKGROUND)
            raise InputError(f"the region {name} holds {shown(value)}; the mask values of classes are {known}.")
    classes = {ids[value] for value in values}
    for value, k in ids.items():
        if k in classes and value not in values:
            raise InputError(f"the region {name} lacks {value}, a mask value of {names[k]}, of which it holds another.")
    if writes not in values:
        raise InputError(
            f"regions_class_order: the region {name} writes {shown(writes)}, but holds {shown(list(values))}."
        )
    return Region(name, tuple(sorted(classes)), ids[writes])


def plain_regions(regions: Sequence[Region], ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return plain types as read by :func:`read_regions`; ``ids`` holds the mask value of each class."""
    return [
        {"name": region.name, "ids": [ids[k] for k in region.classes], "writes": ids[region.writes]}
        for region in regions
    ]


def written_as(k: int, regions: Sequence[Region]) -> int:
    """Return the index of the class as which a pixel of class ``k`` is written if its regions are found exactly."""
    return next((region.writes for region in reversed(regions) if k in region.classes), BACKGROUND)


def membership(regions: Sequence[Region], num_classes: int) -> list[list[int]] | None:
    """Return a row per region, with 1 for its classes and 0 for others; None without regions."""
    return [[int(k in region.classes) for k in range(num_classes)] for region in regions] or None

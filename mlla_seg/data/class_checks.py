"""Checks that the training masks contain the classes of the card, with advice that fits the values they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

import numpy as np

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.formats.registry import read_mask
from mlla_seg.data.formats.vector_sources import is_vector
from mlla_seg.data.polygon_checks import advice_on_polygons
from mlla_seg.data.store.case import StoredCase
from mlla_seg.errors import InputError
from mlla_seg.progress import note

MOST_MASKS = 20
"""Number of masks that are read again to report their values."""


def check_classes(card: Card, stored: Sequence[StoredCase], cases: Sequence[Case]) -> None:
    """Check that the training masks contain at least two classes, and note those that none contains.

    Args:
        card: Card of the data.
        stored: The training cases in the store.
        cases: The same cases, whose masks are read again if there is nothing to learn.

    Raises:
        InputError: The training masks have a single class, or none; says which values they hold and what to do.
    """
    totals = np.sum([case.voxels for case in stored], axis=0)
    absent = [name for name, total in zip(card.class_names, totals, strict=True) if total == 0]
    if len(absent) >= len(card.classes) - 1:
        raise InputError(
            f"{card.name}: no training mask contains {' or '.join(absent[:5])}, so there is nothing to learn. "
            + _advice(card, cases)
        )
    if absent:
        ignored = any(sum(case.voxels) < math.prod(case.shape) // case.shape[1] for case in stored)
        stored_as = (
            f" It may be stored as {card.ignore_index}, which is ignored."
            if len(absent) == 1 and ignored and card.ignore_index is not None
            else ""
        )
        note(f"note: no training mask of {card.name} contains {', '.join(absent)}.{stored_as}")


def _advice(card: Card, cases: Sequence[Case]) -> str:
    """Say which values the masks hold, and what in the card or the masks to change."""
    if polygons := [path for case in cases for path in case.masks if is_vector(path)]:
        return advice_on_polygons(card, polygons[0])
    if card.layout.coloured_masks:
        return "Compare the colours of the masks with those of the card's classes, and the split with the data."
    values = _values(cases, card.layout.mask_key)
    listed = ", ".join(f"{value:g}" for value in values[:6]) + (", ..." if len(values) > 6 else "")
    example = (cases[0].masks or cases[0].images[0])[0].name
    held = f"The masks, such as {example}, hold {'only ' if len(values) < 2 else ''}{listed or 'no value'}"
    threshold = card.layout.mask_threshold
    if len(values) < 2:
        return f"{held}: check that they are the right files, or draw another split."
    middle = f"{(values[0] + values[-1]) / 2:g}"
    if threshold is not None:
        side = "at or below" if values[-1] <= threshold else "above"
        ids = set(values) <= {*card.ids, card.ignore_index}
        cure = "remove mask_threshold, as these are class ids" if ids else f"set mask_threshold: {middle}"
        return f"{held}, all {side} mask_threshold: {threshold:g}. In the layout of your copy of the card, {cure}."
    if len(card.classes) == 2:
        ignored = "" if card.ignore_index is None else f", of which {card.ignore_index} is ignored"
        return f"{held}{ignored}. In the layout of your copy of the card, set mask_threshold: {middle}."
    return f"{held}. Give the classes of the card the ids of the masks."


def _values(cases: Sequence[Case], key: str | None) -> list[float]:
    """Return the values that the first of the masks hold, sorted."""
    paths = (path for case in cases for path in (case.masks or [files[0] for files in case.images]))
    values: set[float] = set()
    for path in islice(paths, MOST_MASKS):
        found = np.unique(read_mask(path, key=key).array)
        values.update(found[np.isfinite(found)].tolist())
    return sorted(values)

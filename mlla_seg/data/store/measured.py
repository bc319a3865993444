"""Measurements on stored cases: spacing, normalisation, and whether class sizes are as the card says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlla_seg.data.card import Card
from mlla_seg.data.dataspec import Normalisation
from mlla_seg.data.sampling import statistics
from mlla_seg.data.schemes import normalisation_of
from mlla_seg.data.store.case import StoredCase
from mlla_seg.errors import InputError, about
from mlla_seg.progress import note


def measured_spacing(card: Card, cases: Sequence[StoredCase]) -> list[float | None] | None:
    """Return the card's ``spacing_mm`` with numbers in place of ``median``, or None if no case has a known spacing.

    The median is taken over all splits, so that it is the same for every fold of a cross-validation.
    """
    known = [case.spacing_mm for case in cases if case.spacing_mm]
    if not card.spacing_mm or not known:
        return None
    return [
        float(f"{median:.4g}") if isinstance(step, str) else step  # "median"
        for step, median in zip(card.spacing_mm, np.median(known, axis=0), strict=True)
    ]


def measured_normalisation(card: Card, cases: Sequence[StoredCase]) -> Normalisation:
    """Measure the normalisation of a card on the training cases, as with ``foreground: true`` or ``measured: true``.

    Raises:
        InputError: There are no values to measure.
    """
    values = np.concatenate([case.values() for case in cases], axis=1)
    if values.size == 0:
        what = f"mask contains anything but {card.background}"
        what = what if card.under_masks else "scene has a pixel with data"
        raise InputError(f"{card.name}: no training {what}, so its normalisation cannot be measured.")
    if card.schemes:
        with about(card.name):
            return normalisation_of(card.schemes, values)
    means, stds = zip(*map(statistics, values), strict=True)
    return Normalisation(means, stds)


def check_class_sizes(card: Card, cases: Sequence[StoredCase]) -> None:
    """Detect masks that number the classes in another order than the card, by the largest and the smallest class.

    An unexpected smallest class is only noted, as it may be due to few cases.

    Raises:
        InputError: The largest class is not that of the card.
    """
    if not cases:
        return
    totals = np.sum([case.voxels for case in cases], axis=0)
    foreground = [k for k, name in enumerate(card.class_names) if name != card.background]
    largest, smallest = (card.class_names[choose(foreground, key=lambda k: totals[k])] for choose in (max, min))
    if card.largest_class not in (None, largest):
        raise InputError(
            f"{card.name}: by the card's class ids the largest class is {largest}, expected "
            f"{card.largest_class}; the masks number the classes in another order. Reorder `classes` in the card."
        )
    if card.smallest_class not in (None, smallest):
        note(
            f"note: by the class ids of {card.name} the smallest class is {smallest}, expected {card.smallest_class}. "
            "Check that the masks number the classes in the card's order."
        )

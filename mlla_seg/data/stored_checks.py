"""The checks and notes on stored cases that come before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mlla_seg.data.block_splits import note_overlapping_scenes
from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import SPLITS
from mlla_seg.data.class_checks import check_classes
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.georeference import note_overlaps
from mlla_seg.data.formats.headers import note_headers
from mlla_seg.data.nnunet import note_described
from mlla_seg.data.polygon_checks import check_polygons
from mlla_seg.data.polygon_folder import note_polygon_folder
from mlla_seg.data.splits import Splits
from mlla_seg.data.store.case import StoredCase
from mlla_seg.data.store.measured import check_class_sizes
from mlla_seg.data.store.notes import (
    note_ignored,
    note_merged_classes,
    note_planes,
    note_resampled,
    note_scribbles,
    note_unlabelled_cases,
    note_warped,
)


def stored_checks(
    card: Card,
    training_card: Card,
    splits: Splits,
    by_split: Mapping[str, Sequence[StoredCase]],
    spec: Callable[[], DataSpec],
    described: bool,
) -> dict[str, Callable[[], None]]:
    """Return the checks of the stored cases by name; each prints notes or raises an :class:`InputError`.

    Args:
        card: Card of the data.
        training_card: Card by which training cases are read, if these have scribbles in place of masks.
        splits: The cases by split.
        by_split: The same cases in the store.
        spec: Returns what the network must remember of its data.
        described: Whether the user has named a card.
    """
    used = [case for name in SPLITS for case in getattr(splits, name)]
    stored = [case for name in SPLITS for case in by_split[name]]
    by_scribbles = training_card is not card
    masked = [*by_split["val"], *by_split["test"]] if by_scribbles else stored
    checks: dict[str, Callable[[], None]] = {
        "polygons": lambda: check_polygons(card, used, stored),
        "class_sizes": lambda: check_class_sizes(card, masked),
        "classes": lambda: check_classes(training_card, by_split["train"], splits.train),
        "merged_classes": lambda: note_merged_classes(card),
        "warped": lambda: note_warped(stored),
        "ignored": lambda: note_ignored(card, masked),
        "unlabelled": lambda: note_unlabelled_cases(card, stored),
    }
    if by_scribbles:
        checks["scribbles"] = lambda: note_scribbles(training_card, by_split["train"])
    if not described and card.layout.format == "nnunet":
        checks["described"] = lambda: note_described(card, spec())
    elif not described:
        checks["described"] = lambda: note_polygon_folder(card)
    checks |= {
        "planes": lambda: note_planes(card, stored),
        "resampled": lambda: note_resampled(card, stored, spec().spacing_mm),
        "headers": lambda: note_headers({case.name: case.notes for case in stored}),
    }
    if card.splits.blocks is not None:
        checks["ground"] = lambda: note_overlapping_scenes(by_split["train"])
    else:
        checks["ground"] = lambda: note_overlaps(by_split)
    return checks

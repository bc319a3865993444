"""Training from scribbles: strokes that label a part of the pixels, in place of the masks of the training split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from string import Formatter

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.splits import Splits
from mlla_seg.data.tree import filled
from mlla_seg.errors import InputError
from mlla_seg.progress import note


def card_of_scribbles(card: Card) -> Card:
    """Return the card by which scribbles are read: as masks of ids, in which all but the strokes is ignored."""
    how = card.scribbles
    if how is None:
        return card
    values = how.values_of(card.values)
    return replace(
        card,
        classes=tuple(replace(entry, id=values[entry.name]) for entry in card.classes),
        ignore_index=how.unlabelled,
        layout=replace(card.layout, mask_key=how.key, coloured_masks=False, ignored_colours=(), mask_threshold=None),
        regions=None,  # lists of values in the masks; reading does not need them
        regions_class_order=None,
        scribbles=None,
    )


def with_scribbles(card: Card, root: Path, cases: Sequence[Case]) -> list[Case]:
    """Return cases of a folder without patterns with their files of scribbles, which are found by the name alone."""
    if card.scribbles is None or card.layout.format == "files":
        return list(cases)
    for template in card.scribbles.places:
        if unknown := sorted({name for _, name, _, _ in Formatter().parse(template) if name} - {"case"}):
            raise InputError(
                f"mask of scribbles in {card.name} uses {unknown}; with format {card.layout.format} there is only case."
            )
    found = []
    for case in cases:
        names = ["*".join(filled(template, {"case": case.name})) for template in card.scribbles.places]
        if outside := [name for name in names if PurePosixPath(name).is_absolute() or ".." in Path(name).parts]:
            raise InputError(f"mask of scribbles in {card.name} leads to {outside[0]}, outside {root}.")
        there = [root / name for name in names if os.path.exists(root / name)]
        found.append(replace(case, scribbles=tuple(there[:1])))
    return found


def trained_on_scribbles(card: Card, splits: Splits) -> Splits:
    """Return splits whose training cases have their scribbles as masks.

    Training cases without scribbles are left out, and so are cases of other splits that have nothing else.

    Raises:
        InputError: No training case has scribbles.
    """
    if card.scribbles is None:
        return splits
    train = splits.train
    if card.scribbles.places:
        train = [replace(case, masks=case.scribbles) for case in splits.train if case.scribbles]
        if not train:
            raise InputError(
                f"{card.name}: none of the {len(splits.train)} training cases, such as {splits.train[0].name}, has "
                f"scribbles at {' or '.join(card.scribbles.places)}."
            )
        _note_left_out(card, "train", "have no scribbles", splits.train, train)
    held = []
    for name, cases in (("val", splits.val), ("test", splits.test)):
        held.append([case for case in cases if case.masks or not card.layout.mask])
        _note_left_out(card, name, "have scribbles but no mask to be scored with", cases, held[-1])
    return replace(splits, train=train, val=held[0], test=held[1])


def _note_left_out(card: Card, split: str, why: str, cases: Sequence[Case], kept: Sequence[Case]) -> None:
    names = {case.name for case in kept}
    if left := [case.name for case in cases if case.name not in names]:
        note(
            f"note: {len(left)} of {len(cases)} cases of split {split} of {card.name}, such as {left[0]}, {why} and "
            "are left out."
        )

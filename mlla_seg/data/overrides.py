"""The card of a run: read by name or path, or derived from the folder, then changed by the options of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mlla_seg.data.card import Card, load_card
from mlla_seg.data.card_sections import MEDIAN, CardNormalisation
from mlla_seg.data.card_splits import MEANS, CardSplits
from mlla_seg.data.formats.planes import ACQUIRED, PLANES
from mlla_seg.data.nnunet import nnunet_card
from mlla_seg.data.polygon_folder import is_polygon_folder, polygon_folder_card
from mlla_seg.errors import InputError, lookup

FILES = ("csv", "train", "val", "test")
"""Keys of splits that may name files."""


def card_of(card: str | None, root: str | Path, channels: Sequence[str] | None = None) -> Card:
    """Return the card of this name or path, or else one derived from the root, with the given channels.

    Without a card, the root has a ``dataset.json`` or holds scenes and polygons.
    """
    if card:
        known = load_card(card)
    elif is_polygon_folder(Path(root)) and not (Path(root) / "dataset.json").exists():
        known = polygon_folder_card(Path(root))
    else:
        known = nnunet_card(Path(root))
    return known if channels is None else known.using(channels)


def for_volumes(card: Card) -> Card:
    """Return the card for patches of volumes: an image is a volume, and all volumes have the median spacing by default.

    A network of three axes needs one spacing along each axis, as its strides follow from it.
    """
    how = card.normalisation
    if how.per_image and how.window is None:
        card = replace(card, normalisation=CardNormalisation(per_case=True))
    slices, rows, columns = (step or MEDIAN for step in card.spacing_mm or (None, None, None))
    return replace(card, spacing_mm=(slices, rows, columns))


def with_options(
    card: Card,
    plane: str | None = None,
    patient: str | None = None,
    spacing_mm: Sequence[float | str | None] | None = None,
    splits: Mapping[str, Any] | None = None,
    exclude: Mapping[str, Any] | None = None,
    scribbles: bool = False,
) -> Card:
    """Return the card with the values of those options of the data module that are not None.

    Without ``scribbles``, the card has none.

    Raises:
        InputError: A value is not what the card's key expects, or there are no scribbles.
    """
    if scribbles and card.scribbles is None:
        raise InputError(
            f"--data.scribbles: the card {card.name} does not say where scribbles are. Add to a card, for instance, "
            "scribbles: {key: scribble, unlabelled: 4}; see docs/training.md."
        )
    if not scribbles:
        card = replace(card, scribbles=None)
    if plane is not None:
        lookup(dict.fromkeys((*PLANES, ACQUIRED)), plane, "plane for --data.plane:")
        card = replace(card, plane=plane)  # type: ignore[arg-type]  # validated
    if patient is not None:
        try:
            card = replace(card, layout=replace(card.layout, patient=patient))
        except ValidationError as error:
            raise InputError(f"--data.patient: {error.errors()[0]['ctx']['error']}") from error
    if spacing_mm is not None:
        expected = f"[slices, rows, columns] in mm, {MEDIAN} or null, got {spacing_mm}"
        card = _with(card, "spacing_mm", spacing_mm, expected)
    if splits is not None:
        card = replace(card, splits=_splits(card.splits, splits))
    if exclude is not None:
        expected = f"{{name of a case or patient: reason}}, both in words, got {dict(exclude)}"
        card = _with(card, "exclude", {**(card.exclude or {}), **exclude}, expected)
    return card


def _with(card: Card, key: str, value: Any, expected: str) -> Card:
    """Return the card with another value of a key.

    Raises:
        InputError: The card does not take the value; says what the option expects, and what it got.
    """
    try:
        return replace(card, **{key: value})
    except ValidationError as error:
        raise InputError(f"--data.{key} takes {expected}.") from error


def _splits(own: CardSplits, given: Mapping[str, Any]) -> CardSplits:
    """Return the splits of ``--data.splits``; those of the card if it says nothing about how cases are divided.

    Its files are relative to the working directory; see ``table_of`` for the folders in which they may be as well.
    """
    known = {entry.name: entry for entry in fields(CardSplits)}
    for key in given:
        lookup(known, key, "key of --data.splits:")
    kept = {} if set(MEANS) & set(given) else {key: getattr(own, key) for key in known}
    here = {
        key: str(Path(value).absolute())
        for key, value in given.items()
        if key in FILES and isinstance(value, str) and Path(value).is_file()
    }
    try:
        return CardSplits(**{**kept, **given, **here})
    except ValidationError as error:
        problem = error.errors()[0]
        if problem["type"] == "value_error":
            raise InputError(f"--data.splits: {problem['ctx']['error']}") from error
        key = str(problem["loc"][0])
        raise InputError(
            f"--data.splits.{key} is {given.get(key)!r}, expected {CardSplits.__pydantic_fields__[key].description}."  # type: ignore[attr-defined]
        ) from error

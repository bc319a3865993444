"""Conversion of masks that store ids, colours or grey levels to class indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from mlla_seg.data.card import Card
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError

ROUNDING = 1e-3
"""Largest difference of a stored id from a whole number, as from a scale of 1 / 255 in the header."""


def class_indices(
    card: Card, mask: Array, path: Path, gaps: bool = False, nodata: Collection[float] = ()
) -> tuple[Array, Counter[float]]:
    """Convert a mask, or a part of one, to class indices.

    Args:
        card: Determines whether ids, colours (``coloured_masks``) or grey levels (``mask_threshold``) stand for
            classes.
        mask: ``(S, C, H, W)`` as read.
        path: File of the mask, for messages.
        gaps: Whether NaN stands for no data.
        nodata: Values that the file tags as without data, which are ignored unless they are ids of the card.

    Returns:
        ``(S, H, W)`` uint8, ``IGNORE_INDEX`` where there is no class; and the number of voxels of each value that
        belongs to no class, see :func:`refuse_unknown`.

    Raises:
        InputError: The number of channels is wrong for such a mask.
    """
    missing: Array | None = np.any(np.isnan(mask), axis=1) if gaps and mask.dtype.kind == "f" else None
    if missing is not None:
        mask = np.where(missing[:, None], 0, mask)
    if card.layout.coloured_masks:
        values, known = _codes_of_colours(mask, card, path), _known_colours(card)
    elif (threshold := card.layout.mask_threshold) is not None:
        mask = without_colour(mask)
        if mask.shape[1] != 1:
            raise InputError(
                f"{path}: has {mask.shape[1]} different channels; with mask_threshold a mask must have "
                "one value per pixel."
            )
        values, known = (mask[:, 0] > threshold).astype(np.uint8), {0: 0, 1: 1}
    else:
        mask = without_colour(mask)
        if mask.shape[1] != 1:
            raise InputError(f"{path}: has {mask.shape[1]} channels; {advice_on_channels(mask)}")
        values = whole_ids(mask[:, 0])
        known = {**card.ids} if card.ignore_index is None else {**card.ids, card.ignore_index: IGNORE_INDEX}
        tagged = {float(np.float32(v)) if values.dtype.kind == "f" else v for v in nodata}  # as it was read
        known |= {int(v): IGNORE_INDEX for v in tagged if float(v).is_integer() and v not in known}
    if missing is not None:
        values = np.where(missing, next(iter(known)), values)  # any known value, so that they do not count as unknown
    found, counts = np.unique(values, return_counts=True)
    indices = np.array([known.get(value, IGNORE_INDEX) for value in found.tolist()], np.uint8)
    stored = np.stack([indices[np.searchsorted(found, piece)] for piece in values])  # slice by slice, to save memory
    unknown = Counter({v: int(n) for v, n in zip(found.tolist(), counts.tolist(), strict=True) if v not in known})
    if missing is not None:
        stored[missing] = IGNORE_INDEX
    return stored, unknown


def without_colour(mask: Array) -> Array:
    """Return a mask ``(S, C, H, W)`` with one channel if its channels are equal, as of greys saved as opaque RGB."""
    opaque = mask.shape[1] in (2, 4) and bool((mask[:, -1] == 255).all())
    greys = mask[:, :-1] if opaque else mask
    return greys[:, :1] if (greys == greys[:, :1]).all() else mask


def whole_ids(values: Array) -> Array:
    """Return stored ids without the errors of rounding; other values stay as they are."""
    if values.dtype.kind != "f":
        return values
    with np.errstate(invalid="ignore"):  # infinite values are told as unknown ones
        near = np.rint(values)
        return np.where(np.abs(values - near) <= ROUNDING, near, values)


def advice_on_channels(mask: Array) -> str:
    """Return what to do about a mask ``(S, C, H, W)`` with several channels that are no colours."""
    expected = "a mask must have one class index per pixel. "
    if mask.min() >= 0 and mask.max() <= 1:
        return expected + (
            "Its values are 0 to 1, as with a channel for each class: store the number of the class instead, such as "
            "mask.argmax(-1) where the first channel is the background."
        )
    return expected + "Set coloured_masks in the card's layout if these are the colours of its classes."


def note_nodata(card: Card, nodata: Collection[float]) -> tuple[str, ...]:
    """Return a note on classes whose value the file of a mask tags as without data, as many programs do with 0."""
    if card.layout.coloured_masks or card.layout.mask_threshold is not None:
        return ()
    classes = {value: card.classes[k].name for value, k in card.ids.items()}
    return tuple(
        f"its mask tags {value:g} as nodata, but the card has it as the class {classes[int(value)]}, which it stays"
        for value in sorted(nodata)
        if value in classes
    )


def refuse_unknown(card: Card, unknown: Mapping[float, int], path: Path) -> None:
    """Raise if a mask has values that belong to no class.

    Raises:
        InputError: Names the lowest of them and its number of voxels.
    """
    if not unknown:
        return
    value = min(unknown)
    others = f" and {len(unknown) - 1} other such values" if len(unknown) > 1 else ""
    if card.layout.coloured_masks:
        code = int(value)
        listed = ", ".join(str([known >> 16, known >> 8 & 255, known & 255]) for known in _known_colours(card))
        raise InputError(
            f"{path}: colour {[code >> 16, code >> 8 & 255, code & 255]} in {unknown[value]} pixels{others} is not in "
            f"the card {card.name}: {listed}. Correct the mask, or add the colour to classes or ignored_colours."
        )
    ignored = "" if card.ignore_index is None else f" or {card.ignore_index} (ignored)"
    raise InputError(
        f"{path}: mask value {value:g} in {unknown[value]} voxels{others}; expected {_listed(card.ids)} "
        f"({', '.join(card.class_names)}){ignored}. {_advice(card, unknown)}"
    )


def _advice(card: Card, unknown: Mapping[float, int]) -> str:
    """Return what to do about mask values of no class."""
    if set(unknown) == {255}:
        second = card.class_infos[1]
        grey = (
            f"If 255 stands for {second.name}, store {second.id} in the masks, or write a card with mask_threshold: "
            "127. "
        )
        return (
            f"{grey if len(card.classes) == 2 else ''}If 255 marks what to ignore, declare it: as the label ignore of "
            "dataset.json, or ignore_index of a card."
        )
    if set(unknown) == {0}:
        return "If 0 is the background, add it: 'background': 0 in labels of dataset.json, or a class of the card."
    if any(np.isfinite(value) and value % 1 for value in unknown):
        return (
            "Values between ids come from resampling with interpolation, or from probabilities: resample masks with "
            "nearest neighbours, and store ids."
        )
    if len(card.classes) == 2 and len(unknown) > 1:
        return (
            "Correct the mask or the card's classes. If the mask stores grey levels, set mask_threshold in the card's "
            "layout."
        )
    return "Correct the mask, or the classes of the card or dataset.json."


def _known_colours(card: Card) -> dict[int, int]:
    """Return the class index, or ``IGNORE_INDEX``, by colour; a shared colour belongs to the first of its classes."""
    colours = [(card.classes[k].colour, k) for k in card.ids.values()]
    colours += [(colour, IGNORE_INDEX) for colour in card.layout.ignored_colours]
    known: dict[int, int] = {}
    for (red, green, blue), k in colours:
        known.setdefault(red << 16 | green << 8 | blue, k)
    return known


def _codes_of_colours(mask: Array, card: Card, path: Path) -> Array:
    """Encode the colours of ``(S, 3, H, W)`` as one number per pixel ``(S, H, W)``."""
    if mask.shape[1] == 4 and (mask[:, 3] == 255).all():  # opaque
        mask = mask[:, :3]
    if mask.shape[1] != 3 or mask.min() < 0 or mask.max() > 255:
        raise InputError(
            f"{path}: has {mask.shape[1]} channels of values from {mask.min():g} to {mask.max():g}; the card "
            f"{card.name} expects colours, 3 channels of 0 to 255."
        )
    red, green, blue = np.moveaxis(mask.astype(np.int32), 1, 0)
    return red << 16 | green << 8 | blue


def _listed(ids: Mapping[int, int]) -> str:
    """Format values, as ``0 to 8`` if they have no gap."""
    values = sorted(ids)
    return f"0 to {values[-1]}" if values == list(range(len(values))) else ", ".join(map(str, values))

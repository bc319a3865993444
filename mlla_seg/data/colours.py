"""Masks in the colours of their classes, as the ISPRS benchmarks have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlla_seg.data.picture import Array
from mlla_seg.data.spec import Card
from mlla_seg.errors import InputError


def values_of_colours(mask: Array, card: Card, path: Path) -> Array:
    """A mask in the colours of the card's classes ``(S, 3, H, W)`` as their values ``(S, 1, H, W)``.

    The layout's ``ignored_colours`` become the value that is ignored.

    Raises:
        InputError: It has no three channels of bytes, or a colour that is neither a class nor ignored.
    """
    if mask.shape[1] != 3 or mask.dtype != np.uint8:
        raise InputError(
            f"{path}: has {mask.shape[1]} channels of {mask.dtype}; the card {card.name} expects colours, 3 of uint8."
        )
    colours = [(card.classes[k]["colour"], value) for value, k in card.ids.items()]
    colours += [(colour, card.ignore_index) for colour in card.layout.get("ignored_colours", [])]
    known = {red << 16 | green << 8 | blue: value for (red, green, blue), value in reversed(colours)}
    codes = (mask.astype(np.int32) << np.array([16, 8, 0])[:, None, None]).sum(axis=1, keepdims=True)
    found, counts = np.unique(codes, return_counts=True)
    for code, count in zip(found.tolist(), counts.tolist(), strict=True):
        if code not in known:
            listed = ", ".join(str(colour) for colour, _ in colours)
            raise InputError(
                f"{path}: colour {[code >> 16, code >> 8 & 255, code & 255]} in {count} pixels is none of the card "
                f"{card.name}: {listed}. Correct the mask, or add the colour to classes or ignored_colours."
            )
    return np.array([known[code] for code in found.tolist()], np.int32)[np.searchsorted(found, codes)]

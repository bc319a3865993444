"""Classes: names, colours, and the values that they have in masks."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlla_seg.data.formats.picture import Array


@dataclass(frozen=True)
class ClassInfo:
    """A class: its name, its colour (red, green, blue in 0..255), and the value it has in masks."""

    name: str
    colour: tuple[int, int, int]
    id: int


def class_colour(index: int) -> tuple[int, int, int]:
    """A colour for the class of an index: black for the first, then hues that differ, whatever their number."""
    if index == 0:
        return (0, 0, 0)
    hue = (index - 1) * 0.618034 % 1  # the golden ratio never comes back to where it was
    red, green, blue = (round(255 * level) for level in colorsys.hsv_to_rgb(hue, 0.65, 0.9))
    return (red, green, blue)


def stored_values(mask: Array, classes: Sequence[ClassInfo]) -> Array:
    """A mask of class indices as the values that the data set stores for its classes, uint8 where they fit."""
    values = [entry.id for entry in classes]
    dtype = np.uint8 if max(values) < 256 else np.uint16
    if values == list(range(len(values))):
        return mask.astype(dtype)
    return np.array(values, dtype)[mask]

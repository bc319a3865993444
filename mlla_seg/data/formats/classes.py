"""Classes: names, colours and mask values."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlla_seg.data.formats.picture import Array

IGNORE_INDEX = 255
"""Class index of pixels that are excluded from training and scores, whatever value they have in a data set's files."""


@dataclass(frozen=True)
class Code:
    """A concept of a published terminology, by which other programs know what a class is."""

    value: str
    """Code, such as 10200004."""
    meaning: str
    """What it stands for, such as Liver."""
    scheme: str = "SCT"
    """Designator of the terminology in DICOM; SCT is SNOMED CT."""


@dataclass(frozen=True)
class ClassInfo:
    """A class: its name, its colour (red, green, blue in 0..255), its value in masks and perhaps a code."""

    name: str
    colour: tuple[int, int, int]
    id: int
    code: Code | None = None


def class_colour(index: int) -> tuple[int, int, int]:
    """Return a colour for a class index: black for the first, then distinct hues, whatever their number."""
    if index == 0:
        return (0, 0, 0)
    hue = (index - 1) * 0.618034 % 1  # golden ratio, so that hues never repeat
    red, green, blue = (round(255 * level) for level in colorsys.hsv_to_rgb(hue, 0.65, 0.9))
    return (red, green, blue)


def stored_values(mask: Array, classes: Sequence[ClassInfo]) -> Array:
    """Convert class indices to the mask values of the data set, uint8 if they fit, else uint16.

    ``IGNORE_INDEX``, where an image has no data, becomes the highest value of the type, which then is no class.
    """
    values = [entry.id for entry in classes]
    fit = max(values) < 255 or (max(values) == 255 and not (mask == IGNORE_INDEX).any())
    dtype = np.uint8 if fit else np.uint16
    if fit and values == list(range(len(values))):
        return mask.astype(dtype)
    table = np.full(256, np.iinfo(dtype).max, dtype)
    table[: len(values)] = values
    return table[mask.astype(np.uint8)]

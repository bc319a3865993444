"""What the colours of an open raster say: colour tables, alpha bands and colour images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlla_seg.data.formats.bands import simple
from mlla_seg.data.formats.picture import Array

NAMELESS = re.compile(r"(band|layer|channel)?\d*|a|alpha|mask|opacity|transparency")
"""Descriptions, simplified, that leave an alpha band one."""


def alpha_band(datasets: Sequence[Any]) -> int | None:
    """Return the position of the alpha band of the last of several files, counted over all files.

    Most programs take the fourth band of bytes for one. A description such as near infrared says that it is not.
    """
    last = datasets[-1]
    for k, (colour, description) in enumerate(zip(last.colorinterp, last.descriptions, strict=True)):
        if colour.name == "alpha" and NAMELESS.fullmatch(simple(description or "")):
            return sum(dataset.count for dataset in datasets[:-1]) + k
    return None


def palette_of(dataset: Any) -> Array | None:
    """Return the colour table of a file whose values are indices of colours, ``(n, 4)`` red, green, blue and alpha."""
    if dataset.colorinterp[0].name != "palette":
        return None
    colours = dataset.colormap(1)
    table = np.zeros((max(colours) + 1, 4), np.float32)
    table[list(colours)] = list(colours.values())
    return table


def coloured(indices: Array, table: Array, raw: bool) -> Array:
    """Turn indices ``(H, W)``, NaN where there is no data, into colours ``(3, H, W)``."""
    missing = np.isnan(indices) | (indices >= len(table))
    colours = table[np.where(missing, 0, indices).astype(np.int64)]
    colours[missing | ((colours[..., 3] == 0) & (not raw))] = np.nan
    return np.moveaxis(colours[..., :3], 2, 0)


def is_colour_image(dataset: Any) -> bool:
    """Return whether a file is a colour image of 8 or 16 bits."""
    colours = {interpretation.name for interpretation in dataset.colorinterp[:3]}
    return colours == {"red", "green", "blue"} and set(dataset.dtypes) <= {"uint8", "uint16"}

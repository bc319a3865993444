"""Pixels without data, marked by a value: one rule for rasters and photos, in training, prediction and the runtime.

The value is the nodata tag of a file or, in files without one, the card's ``nodata`` or ``--nodata``. In colour images
of 8 or 16 bits a pixel has no data where *all* bands of the file have the value, as in rasterio's dataset mask: a dark
roof may have one band of 0. In other rasters a pixel has no data where *any* band has it. ``nodata_rule`` of the card
overrides both.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlla_seg.data.formats.picture import Array

RULES = ("any", "all")
SMALL = ("uint8", "uint16")
"""Data types of colour images."""


@dataclass(frozen=True)
class Tag:
    """Value without data of a band."""

    value: float | None = None
    group: Hashable = None
    """Bands of one group have no data only where all of them have their values; a band without a group is alone."""
    warped: bool = False
    """Whether NaN stands for the value in what has been read, of a band in a group."""

    def after_warping(self) -> Tag:
        """Return the tag of a band that is warped while it is read, which turns the value into NaN."""
        return Tag() if self.group is None or self.value is None else replace(self, warped=True)


@dataclass(frozen=True)
class Gaps:
    """How a value marks pixels without data."""

    nodata: float | None = None
    """Value without data in files without a nodata tag."""
    rule: str | None = None
    """``any`` or ``all``; by default all bands in colour images of 8 or 16 bits, else any."""

    def tags(self, values: Sequence[float | None], colour: bool, file: Hashable) -> list[Tag]:
        """Return the tag of each band of a file.

        Args:
            values: The file's own nodata value for each band.
            colour: Whether it is a colour image of 8 or 16 bits.
            file: Tells the file from others.
        """
        values = [self.nodata if value is None else value for value in values]
        if (
            self.rule == "all"
        ):  # bands in files of their own belong together, but not a height of -9999 with colours of 0
            return [Tag(value, ("value", value)) for value in values]
        together = colour and self.rule is None
        return [Tag(value, ("file", file) if together else None) for value in values]


def mark_gaps(bands: Array, tags: Sequence[Tag]) -> None:
    """Set what has no data to NaN, in place: values that are not finite, and those of the tags.

    Args:
        bands: ``(C, H, W)`` float32.
        tags: One per band.
    """
    gaps = ~np.isfinite(bands)
    groups: dict[Hashable, list[int]] = {}
    for k, tag in enumerate(tags):
        groups.setdefault(("band", k) if tag.group is None else tag.group, []).append(k)
    for members in groups.values():
        values = [tags[k].value for k in members]
        if all(value is not None for value in values):
            both = zip(members, values, strict=True)
            equal = np.logical_and.reduce([bands[k] == np.float32(value) for k, value in both])
            for k in members:
                gaps[k] |= equal
    bands[gaps] = np.nan

"""Boxes for cutting samples from images; a box may extend beyond its image, whose border is replicated there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.framing import margin


@dataclass(frozen=True)
class Box:
    """Rows and columns of an image; may extend beyond it."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.width)

    @property
    def corner(self) -> tuple[int, int]:
        return self.top, self.left

    @property
    def sides(self) -> tuple[int, int]:
        return self.height, self.width

    def grown(self, reach: float, further: int = 0) -> Box:
        """Return a concentric box: sides scaled by ``reach``, rounded up, plus ``further`` pixels on each side."""
        rows, columns = (math.ceil((reach - 1) / 2 * n) + further for n in self.sides)
        return Box(self.top - rows, self.left - columns, self.height + 2 * rows, self.width + 2 * columns)

    def framed(self, frame: Sequence[int]) -> Box:
        """Return a box of at least the frame's size with this one in its centre, as the network pads small images."""
        above, left = (margin(n, least) for n, least in zip(self.sides, frame, strict=True))
        return Box(self.top - above, self.left - left, max(self.height, frame[0]), max(self.width, frame[1]))

    def inside(self, size: Sequence[int]) -> Box:
        """Return the part inside an image of ``(height, width)``."""
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = (min(n, part.stop) for n, part in zip(size, (self.rows, self.columns), strict=True))
        return Box(top, left, bottom - top, right - left)


def whole(size: Sequence[int]) -> Box:
    """Return the box of a whole image of ``(height, width)``."""
    return Box(0, 0, size[0], size[1])


def draw_box(size: Sequence[int], crop: Sequence[int], around: Sequence[int] | None, rng: np.random.Generator) -> Box:
    """Draw a random box of at most ``crop`` inside ``(height, width)``, containing the pixel ``around`` if given."""
    starts, sides = [], [min(n, c) for n, c in zip(size, crop, strict=True)]
    for axis, (n, c) in enumerate(zip(size, sides, strict=True)):
        low, high = (0, n - c) if around is None else (around[axis] - c + 1, around[axis])
        starts.append(int(rng.integers(max(0, min(low, n - c)), max(0, min(high, n - c)) + 1)))
    return Box(*starts, *sides)


def cut(image: Array, mask: Array, box: Box) -> tuple[Array, Array, Array]:
    """Cut a box from an image ``(C, H, W)`` and its mask ``(H, W)``.

    Returns:
        Image, mask, and a uint8 mask of the image's own pixels; all others replicate the border and are ignored in the
        mask.
    """
    rows, columns = np.arange(box.top, box.top + box.height), np.arange(box.left, box.left + box.width)
    inside = [np.clip(places, 0, n - 1) for places, n in zip((rows, columns), mask.shape, strict=True)]
    own = (inside[0] == rows)[:, None] & (inside[1] == columns)
    piece = image[:, inside[0][0] : inside[0][-1] + 1, inside[1][0] : inside[1][-1] + 1]  # only this part is read
    labels = mask[inside[0][0] : inside[0][-1] + 1, inside[1][0] : inside[1][-1] + 1]
    if not own.all():
        index = np.ix_(inside[0] - inside[0][0], inside[1] - inside[1][0])
        piece, labels = piece[:, index[0], index[1]], np.where(own, labels[index], IGNORE_INDEX).astype(mask.dtype)
    return piece, labels, own.astype(np.uint8)

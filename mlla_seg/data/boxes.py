"""Boxes for cutting samples from images or volumes; one may extend beyond its image, whose border is replicated there.

Boxes have any number of axes: rows and columns, or slices, rows and columns.
"""

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
    """Part of an image; may extend beyond it."""

    corner: tuple[int, ...]
    """First index along each axis."""
    sides: tuple[int, ...]
    """Number of indices along each axis."""

    @property
    def parts(self) -> tuple[slice, ...]:
        """The indices along each axis."""
        return tuple(slice(first, first + count) for first, count in zip(self.corner, self.sides, strict=True))

    @property
    def rows(self) -> slice:
        return self.parts[-2]

    @property
    def columns(self) -> slice:
        return self.parts[-1]

    def grown(self, reach: float, further: int = 0) -> Box:
        """Return a concentric box: sides scaled by ``reach``, rounded up, plus ``further`` pixels on each side."""
        return self.padded([math.ceil((reach - 1) / 2 * n) + further for n in self.sides])

    def padded(self, before: Sequence[int]) -> Box:
        """Return a box with some pixels more before and behind along each axis."""
        return Box(
            tuple(first - more for first, more in zip(self.corner, before, strict=True)),
            tuple(count + 2 * more for count, more in zip(self.sides, before, strict=True)),
        )

    def framed(self, frame: Sequence[int]) -> Box:
        """Return a box of at least the frame's size with this one in its centre, as the network pads small images."""
        before = [margin(n, least) for n, least in zip(self.sides, frame, strict=True)]
        corner = tuple(first - more for first, more in zip(self.corner, before, strict=True))
        return Box(corner, tuple(map(max, self.sides, frame)))

    def inside(self, size: Sequence[int]) -> Box:
        """Return the part inside an image of the given size."""
        parts = [slice(max(part.start, 0), min(part.stop, n)) for part, n in zip(self.parts, size, strict=True)]
        return Box(tuple(part.start for part in parts), tuple(part.stop - part.start for part in parts))


def whole(size: Sequence[int]) -> Box:
    """Return the box of a whole image of the given size."""
    return Box((0,) * len(size), tuple(size))


def draw_box(size: Sequence[int], crop: Sequence[int], around: Sequence[int] | None, rng: np.random.Generator) -> Box:
    """Draw a random box of at most ``crop`` inside an image, containing the pixel ``around`` if given."""
    starts, sides = [], [min(n, c) for n, c in zip(size, crop, strict=True)]
    for axis, (n, c) in enumerate(zip(size, sides, strict=True)):
        low, high = (0, n - c) if around is None else (around[axis] - c + 1, around[axis])
        starts.append(int(rng.integers(max(0, min(low, n - c)), max(0, min(high, n - c)) + 1)))
    return Box(tuple(starts), tuple(sides))


def cut(image: Array, mask: Array, box: Box) -> tuple[Array, Array, Array]:
    """Cut a box from an image ``(C, H, W)`` and its mask ``(H, W)``, or a volume ``(C, D, H, W)`` and its mask.

    Returns:
        Image, mask, and a uint8 mask of the image's own pixels; all others replicate the border and are ignored in the
        mask.
    """
    places = [np.arange(part.start, part.stop) for part in box.parts]
    inside = [np.clip(at, 0, n - 1) for at, n in zip(places, mask.shape, strict=True)]
    read = tuple(slice(at[0], at[-1] + 1) for at in inside)  # only this part is read
    own = np.ones(box.sides, bool)
    for axis, (at, clipped) in enumerate(zip(places, inside, strict=True)):
        own &= (at == clipped).reshape([-1 if k == axis else 1 for k in range(len(places))])
    piece, labels = image[(slice(None), *read)], mask[read]
    if not own.all():
        index = np.ix_(*(at - at[0] for at in inside))
        labels = np.where(own, labels[index], IGNORE_INDEX).astype(mask.dtype)
        piece = piece[(slice(None), *index)]
    return piece, labels, own.astype(np.uint8)

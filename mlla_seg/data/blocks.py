"""Blocks of a scene: which of its pixels belong to a split, and how a case of some blocks is cut from it.

A scene is divided into a grid of blocks, each of one split. A pixel closer than half of the gap to a block of another
split belongs to no split, so pixels of two splits are at least the gap apart, in rows or in columns. Training sees its
own pixels only: all others are stored as no data. Cases of validation and test are a block each, with pixels around it
that windows may look at; their labels outside of it are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlla_seg.data.boxes import Box, whole
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.georeference import Ground, coordinates
from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError

Cell = tuple[int, int]
"""Row and column of a block."""


@dataclass(frozen=True)
class Part:
    """Blocks of a scene that form a case."""

    scene: str
    """Name of the scene."""
    patient: str
    """Its patient, as in splits without blocks."""
    grid: tuple[int, int]
    """Rows and columns of blocks."""
    cells: tuple[Cell, ...]
    """Blocks of the case."""
    split: tuple[Cell, ...]
    """Blocks of its split, from which it need not be apart."""
    gap_px: int | None = None
    gap_m: float | None = None
    """Distance to blocks of other splits, in pixels or in metres."""
    margin: int | None = None
    """Pixels around the blocks that are stored too; None for the whole scene, with all other blocks hidden."""

    def edges(self, size: Sequence[int]) -> tuple[Array, Array]:
        """Return the rows and the columns at which blocks of a scene of ``(height, width)`` begin, and their end."""
        rows, columns = (np.round(np.linspace(0, n, k + 1)).astype(int) for n, k in zip(size, self.grid, strict=True))
        return rows, columns

    def boxes(self, size: Sequence[int]) -> list[Box]:
        """Return the blocks of the case in a scene of ``(height, width)``."""
        rows, columns = self.edges(size)
        return [
            Box((int(rows[r]), int(columns[c])), (int(rows[r + 1] - rows[r]), int(columns[c + 1] - columns[c])))
            for r, c in self.cells
        ]

    def window(self, size: Sequence[int]) -> Box:
        """Return the part of a scene of ``(height, width)`` that is stored."""
        if self.margin is None:
            return whole(size)
        (box,) = self.boxes(size)
        return box.grown(1, self.margin).inside(size)

    def own(self, size: Sequence[int], gap: int, box: Box) -> Array:
        """Return which pixels of a box in a scene of ``(height, width)`` belong to the case, ``(h, w)`` bool."""
        half = -(-gap // 2)
        places = []
        for first, count, n, edges in zip(box.corner, box.sides, size, self.edges(size), strict=True):
            pixels = np.arange(first, first + count) + np.array([[0], [-half], [half]])
            places.append(np.searchsorted(edges, np.clip(pixels, 0, n - 1), side="right") - 1)
        case, split = (np.zeros(self.grid, bool) for _ in range(2))
        case[tuple(np.transpose(self.cells))] = split[tuple(np.transpose(self.split))] = True
        own: Array = case[np.ix_(places[0][0], places[1][0])]
        for rows in places[0]:
            for columns in places[1]:
                own &= split[np.ix_(rows, columns)]
        return own

    def gap_of(self, size: Sequence[int], ground: Ground | None) -> int:
        """Return the gap in pixels.

        Raises:
            InputError: The size of pixels in metres is unknown, or no block is larger than the gap.
        """
        if self.gap_px is None:
            metres = None if ground is None else pixel_size_m(ground)
            if metres is None:
                raise InputError("the size of its pixels in metres is unknown, as gap_m of splits needs. Use gap_px.")
            gap = math.ceil((self.gap_m or 0) / metres)
        else:
            gap = self.gap_px
        least = min(int(np.diff(edges).min()) for edges in self.edges(size))
        if least <= gap + 1:
            rows, columns = self.grid
            raise InputError(
                f"{rows}x{columns} blocks of {size[0]} x {size[1]} pixels have sides of {least}, no more than the gap "
                f"of {gap}. Use fewer blocks or a smaller gap."
            )
        return gap


def pixel_size_m(ground: Ground) -> float | None:
    """Return the smaller side in metres of the pixel in the middle of a scene, whatever its CRS; None without a CRS."""
    if ground.crs is None:
        return None
    from rasterio.warp import transform

    column, row = ground.shape[1] / 2, ground.shape[0] / 2
    x, y = coordinates(ground, np.array([column, column + 1, column]), np.array([row, row, row + 1]))
    longitude, latitude = map(np.radians, transform(ground.crs, "EPSG:4326", x, y))
    east = (longitude[1:] - longitude[0]) * np.cos(latitude[0])
    sides = 6_371_008.8 * np.hypot(east, latitude[1:] - latitude[0])  # mean radius of the Earth
    return float(sides.min()) if np.isfinite(sides).all() and sides.min() > 0 else None


def part_of(source: Any, part: Part) -> Any:
    """Return the source of a case that consists of blocks of a scene.

    Args:
        source: The open scene, see :class:`mlla_seg.data.reading.Source`.
        part: The blocks.

    Raises:
        InputError: It is a volume, or the gap does not fit.
    """
    slices, channels, *size = source.shape
    if slices > 1:
        raise InputError(f"{part.scene} has {slices} slices: blocks of splits divide scenes, not volumes.")
    gap, window = part.gap_of(size, source.ground), part.window(size)
    own = sum(int(part.own(size, gap, box).sum()) for box in part.boxes(size))
    return replace(
        source,
        shape=(1, channels, *window.sides),
        dtype=np.result_type(source.dtype, np.float32) if part.margin is None else source.dtype,
        pieces=_pieces(source.pieces, part, size, gap, window),
        ground=source.ground if part.margin is None else None,
        own=own,
    )


def _pieces(pieces: Any, part: Part, size: Sequence[int], gap: int, window: Box) -> Iterator[Any]:
    """Yield the pieces of the window, with other pixels than the case's ignored and, for training, without data."""
    for piece in pieces:
        height = piece.image.shape[2]
        top, bottom = max(piece.top, window.rows.start), min(piece.top + height, window.rows.stop)
        if top >= bottom:
            continue
        rows = slice(top - piece.top, bottom - piece.top)
        image, labels = (array[..., rows, window.columns] for array in (piece.image, piece.labels))
        other = ~part.own(size, gap, Box((top, window.corner[1]), (bottom - top, window.sides[1])))
        labels = np.where(other, IGNORE_INDEX, labels).astype(labels.dtype)
        if part.margin is None:
            image = np.where(other, np.float32("nan"), image)
        yield replace(piece, top=top - window.rows.start, image=image, labels=labels)

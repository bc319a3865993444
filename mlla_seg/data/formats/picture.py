"""Common result of all readers: an array of slices and its voxel geometry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlla_seg.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """Content of a file: an array and its voxel geometry."""

    array: Array
    """``(S, C, H, W)``."""
    spacing_mm: tuple[float, float, float] | None = None
    """Spacing of slices, rows and columns; None if the file does not define it."""
    affine: Array | None = None
    """``(4, 4)`` from slice, row and column to millimetres (right, anterior, superior), if defined."""
    axes: str | None = None
    """Directions of slices, rows and columns, such as ``SPL``, if defined."""
    gaps: bool = False
    """Whether NaN stands for no data, as in rasters; elsewhere NaN is an error."""
    alpha: bool = False
    """Whether the last channel is an alpha channel, which may only mark where there is data."""
    nodata: tuple[float, ...] = ()
    """Values of a mask that its file tags as without data; they may be classes all the same."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the header was interpreted."""
    stored: Array | None = None
    """Affine that other programs read from the same header, if it differs."""


def without_pixels(picture: Picture) -> Picture:
    """Return what the header of a picture says, so that its pixels may go."""
    return replace(picture, array=np.empty((0, *picture.array.shape[1:]), picture.array.dtype))


def compact(array: Array) -> Array:
    """Keep arrays of small integers and convert all others to float32.

    Raises:
        TypeError: The values are no real numbers.
    """
    if array.dtype.kind not in "biuf":
        raise TypeError(f"its values are of type {array.dtype}, expected real numbers")
    return array if array.dtype in (np.uint8, np.int16, np.uint16) else array.astype(np.float32)


def gaps_of(picture: Picture) -> Array:
    """Return where a picture has no data in some channel, ``(S, H, W)``."""
    if not picture.gaps:
        return np.zeros(picture.array[:, 0].shape, bool)
    return np.asarray(np.isnan(picture.array).any(axis=1))


def require_finite(path: Path, picture: Picture) -> None:
    """Raise if an image has NaN or infinite values, before a network spreads them.

    Raises:
        InputError: Gives their number.
    """
    if picture.array.dtype == np.float32 and not np.isfinite(picture.array).all():
        count = int((~np.isfinite(picture.array)).sum())
        raise InputError(
            f"{path}: {count} of {picture.array.size} values are NaN or infinite. Repair the file or exclude the case."
        )

"""Common result of all readers: an array of slices and its voxel geometry."""

from __future__ import annotations

from dataclasses import dataclass
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


def compact(array: Array) -> Array:
    """Keep arrays of small integers and convert all others to float32."""
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


def require_same_grid(path: Path, picture: Picture, other_path: Path, other: Picture) -> None:
    """Raise if two files differ in shape, or their voxels in position by more than a tenth of a voxel.

    Files that store the same voxels along different axes agree, as both have been reoriented to the same slices.

    Raises:
        InputError: Names both files and the difference.
    """
    shape, other_shape = (p.array.shape[:1] + p.array.shape[2:] for p in (picture, other))
    if shape != other_shape:
        raise InputError(
            f"{other_path}: shape {other_shape} differs from {path.name} with {shape} (slices, height, width)."
        )
    if picture.affine is None or other.affine is None:
        return
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * (*(n - 1 for n in shape), 1)

    def apart(affine: Array, other_affine: Array) -> float:
        distance = np.linalg.norm(corners @ (affine - other_affine).T, axis=1).max()
        return float(distance) if distance > 0.1 * np.linalg.norm(affine[:3, :3], axis=0).min() else 0.0

    distance = apart(picture.affine, other.affine)
    # A mask drawn in another program has the affine which that program read from the image's header.
    stored = picture.affine if picture.stored is None else picture.stored
    if distance and apart(stored, other.affine if other.stored is None else other.stored):
        raise InputError(
            f"{other_path}: its affine differs from {path.name} by up to {distance:.3g} mm. "
            "Resample one to the other's grid, or correct the wrong header."
        )

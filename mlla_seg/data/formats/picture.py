"""What every reader gives: an array of slices and where its voxels lie."""

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
    """What was read from a file: an array and where its voxels lie."""

    array: Array
    """``(S, C, H, W)``."""
    spacing_mm: tuple[float, float, float] | None = None
    """Distance between slices, rows and columns; none where the file does not say it."""
    affine: Array | None = None
    """``(4, 4)`` from slice, row and column to millimetres (right, anterior, superior), if the file says it."""
    axes: str | None = None
    """Directions in which slices, rows and columns run, such as ``SPL``, if the file says it."""
    gaps: bool = False
    """Whether NaN stands for no data, as in rasters; elsewhere it is damage."""
    notes: tuple[str, ...] = ()
    """What is to be said of how its header was taken."""
    stored: Array | None = None
    """The affine as other programs read it from the same header, where ours is another."""


def compact(array: Array) -> Array:
    """Small integers stay as they are, all else becomes float32."""
    return array if array.dtype in (np.uint8, np.int16, np.uint16) else array.astype(np.float32)


def require_finite(path: Path, picture: Picture) -> None:
    """Refuses an image with values that are no number, before a network spreads them.

    Raises:
        InputError: Says how many there are.
    """
    if picture.array.dtype == np.float32 and not np.isfinite(picture.array).all():
        count = int((~np.isfinite(picture.array)).sum())
        raise InputError(
            f"{path}: {count} of {picture.array.size} values are NaN or infinite; repair or leave out the case."
        )


def require_same_grid(path: Path, picture: Picture, other_path: Path, other: Picture) -> None:
    """Refuses two files whose voxels do not lie in the same places: another shape, or over a tenth of a voxel away.

    Files that store the same voxels along other axes have been turned to the same slices and agree.

    Raises:
        InputError: Says both files and what differs.
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
    # A mask drawn on an image whose header we take otherwise carries what another program read from it.
    stored = picture.affine if picture.stored is None else picture.stored
    if distance and apart(stored, other.affine if other.stored is None else other.stored):
        raise InputError(
            f"{other_path}: its affine differs from {path.name}, it lies up to {distance:.3g} mm elsewhere in the "
            "patient. Resample one to the other's grid, or correct the header that is wrong."
        )

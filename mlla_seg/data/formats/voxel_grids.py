"""Comparison of the voxel grids of two files, and what to do if they differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from mlla_seg.data.formats.photos import TURNED, TURNED_MASK
from mlla_seg.data.formats.picture import Array, Picture
from mlla_seg.errors import InputError

AXES = ("left-right", "front-back", "head-feet")
NEAR = 0.1
"""Distance below which voxels have the same position, as a fraction of their spacing."""


def require_same_grid(path: Path, picture: Picture, other_path: Path, other: Picture) -> None:
    """Raise if two files differ in shape, or their voxels in position by more than a tenth of a voxel.

    Files that store the same voxels along different axes agree, as both have been reoriented to the same slices.

    Raises:
        InputError: Names both files, the difference, and what it looks like.
    """
    shape, other_shape = (p.array.shape[:1] + p.array.shape[2:] for p in (picture, other))
    if shape != other_shape:
        raise InputError(
            f"{other_path}: shape {other_shape} differs from {path.name} with {shape} (slices, height, width)."
            f"{_turned(picture, other) or _permuted(shape, other_shape, other.affine is not None)}"
        )
    if picture.affine is None or other.affine is None:
        return
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * (*(n - 1 for n in shape), 1)
    tolerance = NEAR * np.linalg.norm(picture.affine[:3, :3], axis=0).min()

    def apart(affine: Array, other_affine: Array) -> float:
        distance = np.linalg.norm(corners @ (affine - other_affine).T, axis=1).max()
        return float(distance) if distance > tolerance else 0.0

    distance = apart(picture.affine, other.affine)
    # A mask drawn in another program has the affine which that program read from the image's header.
    stored = picture.affine if picture.stored is None else picture.stored
    if distance and apart(stored, other.affine if other.stored is None else other.stored):
        places, other_places = ((corners @ affine.T)[:, :3] for affine in (picture.affine, other.affine))
        raise InputError(
            f"{other_path}: its affine differs from {path.name} by up to {distance:.3g} mm"
            f"{_difference(picture, other, places, other_places, tolerance)}"
        )


def _turned(picture: Picture, other: Picture) -> str:
    """Say if an EXIF orientation turns a photo but not its mask, or the reverse."""
    if (TURNED in picture.notes) == (TURNED_MASK in other.notes):
        return ""
    which, lacks = ("the image", "mask") if TURNED in picture.notes else ("the mask", "image")
    return (
        f" The EXIF orientation of {which} turns it, as viewers do, and the {lacks} has no such tag: draw the mask on "
        "the image as shown, or remove the tag."
    )


def _permuted(shape: Sequence[int], other: Sequence[int], placed: bool) -> str:
    """Say if the shapes are alike but for the order of axes."""
    if sorted(shape) != sorted(other):
        return ""
    what = "its rows and columns are exchanged" if shape[0] == other[0] else "its axes are in another order"
    how = "Its header gives other directions to the axes: copy that of the image" if placed else "Transpose its array"
    return f" The lengths are the same: {what}. {how}."


def _difference(picture: Picture, other: Picture, places: Array, other_places: Array, tolerance: float) -> str:
    """Describe how the affines of two files of one shape differ, and what to do."""
    for signs in product((1, -1), repeat=3):
        box, other_box = (np.array([p.min(axis=0), p.max(axis=0)]) for p in (places * signs, other_places))
        if -1 in signs and np.abs(box - other_box).max() <= tolerance:
            axes = " and ".join(axis for axis, sign in zip(AXES, signs, strict=True) if sign < 0)
            return (
                f": it lies where the image would with the opposite sign of {axes}, as if saved in the other "
                "convention (LPS of ITK and DICOM, RAS of NIfTI). If their voxels match, copy the image's header to it."
            )
    spacing, other_spacing = (p.spacing_mm or () for p in (picture, other))
    if not np.allclose(spacing, other_spacing, rtol=0.01):
        found, expected = (" x ".join(f"{step:.3g}" for step in steps) for steps in (other_spacing, spacing))
        return (
            f": its spacing is {found} mm, expected {expected} (slices, rows, columns). If their voxels match, it was "
            "saved without the image's header: copy that to it. Otherwise resample it to the image's grid."
        )
    return ". Resample one to the other's grid, or correct the wrong header."

"""Geometric augmentation of volumes: one affine map per sample, in millimetres, by torch's grid sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from mlla_seg.data.augment import Augment
from mlla_seg.data.boxes import Box
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.slices import AXES
from mlla_seg.errors import InputError, lookup

VOLUME_AUGMENTATIONS = ("none", "anatomy")
"""Names of augmentations that work on volumes."""
ROTATION = 20.0
"""Maximum rotation in degrees about each axis, in either direction."""
SCALE = (0.7, 1.4)
"""Range of magnifications."""
SHIFT = 0.05
"""Maximum shift along each axis, as a fraction of the sample."""
MOVED = 0.8
"""Fraction of the samples that are moved."""
ISOTROPIC = 2.0
"""Samples are only rotated within their slices where these are further apart than their pixels by more than this."""


def require_for_volumes(name: str, mirror: Sequence[str]) -> None:
    """Check the name of an augmentation and the axes to mirror.

    Raises:
        InputError: The augmentation is for images only, or volumes have no such axis.
    """
    if name not in VOLUME_AUGMENTATIONS:
        raise InputError(f"--data.augment {name} is for images: volumes have {' and '.join(VOLUME_AUGMENTATIONS)}.")
    for axis in mirror:
        lookup(dict.fromkeys(AXES), axis, "mirror axis")


class VolumeAugment(Augment):
    """Augmentation of patches ``(C, D, H, W)``: rotation, scaling and a small shift, as ``anatomy`` does for slices.

    Args:
        name: A name in ``VOLUME_AUGMENTATIONS``.
        spacing_mm: Distance of slices, rows and columns of the samples, so that rotations keep shapes; None for an axis
            where cases differ. Unless all are known, samples are only rotated within their slices.
        mirror: Axes in ``AXES`` along which half of the samples are mirrored in addition.
        how: Arguments of :class:`Augment`, except ``colours``.
    """

    def __init__(
        self,
        name: str,
        spacing_mm: Sequence[float | None] | None = None,
        mirror: Sequence[str] = (),
        **how: Any,
    ) -> None:
        super().__init__(**how)
        require_for_volumes(name, mirror)
        self.moves = name == "anatomy"
        self.mirror = [AXES.index(axis) for axis in mirror]
        known = [step for step in spacing_mm or () if step]
        self.spacing = np.array([step or max(known, default=1.0) for step in spacing_mm or (None, None, None)])
        self.turns_about = AXES if len(known) == 3 and max(known) / min(known) <= ISOTROPIC else AXES[:1]

    def map(self, sides: Sequence[int], seed: int) -> tuple[Array, Array]:
        """Draw the map from places of a sample to places in the volume, relative to the sample's centre, in voxels.

        Returns:
            Matrix ``(3, 3)`` and shift ``(3,)``; the place of ``x`` is ``matrix @ x + shift``.
        """
        rng = np.random.default_rng((seed, 1))  # other numbers than those of intensities
        matrix, shift = np.eye(3), np.zeros(3)
        if self.moves and rng.random() < MOVED:
            matrix /= math.exp(rng.uniform(*np.log(SCALE)))
            for axis, name in enumerate(AXES):
                angle = math.radians(rng.uniform(-ROTATION, ROTATION))
                matrix = matrix @ _rotation(axis, angle) if name in self.turns_about else matrix
            shift = rng.uniform(-SHIFT, SHIFT, 3) * np.asarray(sides)
        for axis in self.mirror:
            matrix[:, axis] *= -1 if rng.random() < 0.5 else 1
        return matrix * self.spacing / self.spacing[:, None], shift  # from millimetres to voxels

    def needed(self, box: Box, seed: int) -> Box:
        matrix, shift = self.map(box.sides, seed)
        middle = (np.asarray(box.sides) - 1) / 2
        further = np.abs(matrix) @ middle + np.abs(shift) - middle  # of the outermost voxels
        return box.padded([max(0, math.ceil(n - 1e-6)) for n in further])

    def moved(self, image: Array, masks: list[Array], sides: tuple[int, ...], seed: int) -> tuple[Array, list[Array]]:
        matrix, shift = self.map(sides, seed)
        around = masks[0].shape
        if around == tuple(sides) and np.array_equal(matrix, np.eye(3)):
            return image, masks
        half, whole = np.asarray(sides) / 2, np.asarray(around) / 2
        theta = np.column_stack([matrix * half / whole[:, None], shift / whole])[::-1]  # torch counts columns first
        theta = np.concatenate([theta[:, 2::-1], theta[:, 3:]], axis=1)
        grid = F.affine_grid(torch.tensor(theta[None], dtype=torch.float32), [1, 1, *sides], align_corners=False)

        def sampled(values: Array, mode: str) -> Array:
            tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
            return F.grid_sample(tensor, grid, mode, padding_mode="border", align_corners=False)[0].numpy()

        labels = sampled(np.stack(masks), "nearest")
        return sampled(image, "bilinear"), [own.astype(mask.dtype) for own, mask in zip(labels, masks, strict=True)]


def _rotation(axis: int, angle: float) -> Array:
    """Return the rotation about an axis."""
    matrix = np.eye(3)
    first, second = (k for k in range(3) if k != axis)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix[[first, first, second, second], [first, second, first, second]] = cos, -sin, sin, cos
    return matrix

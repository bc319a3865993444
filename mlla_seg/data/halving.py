"""How networks of volumes halve their patches, by nnU-Net's rule, and patches of a size that they can halve.

Axes are (rows, columns) or (slices, rows, columns). A network halves the resolution in five steps; along each axis a
step has the stride 2, or 1 where that axis is coarse or small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

STEPS = 5
"""Halvings between the image and the coarsest feature map."""
SMALLEST = 4
"""Smallest size to which an axis is halved, as in nnU-Net."""


def total_strides(strides: Sequence[Sequence[int]]) -> list[int]:
    """Return the stride of the coarsest feature map along each axis; padded images are multiples of it."""
    return [math.prod(steps) for steps in zip(*strides, strict=True)]


def strides_for(spacing: Sequence[float], patch_size: Sequence[int]) -> list[list[int]]:
    """Choose the strides of a network from the spacing of its voxels and the size of its patches, as nnU-Net does.

    A step halves the axes whose spacing is within a factor of 2 of the finest one, among those that are not too small:
    halving stops before a size falls below 4, and before the last axis alone falls below 6 (Isensee et al.,
    "nnU-Net", Nature Methods 2021, and the authors' code).

    Args:
        spacing: Distance of voxels along each axis, in any one unit.
        patch_size: Size of the training patches along each axis.

    Returns:
        Strides of five steps, such as ``[[1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 1, 1]]``.
    """
    now, sizes = [float(distance) for distance in spacing], list(patch_size)
    strides = []
    for _ in range(STEPS):
        large = [axis for axis, size in enumerate(sizes) if size >= 2 * SMALLEST]
        finest = min((now[axis] for axis in large), default=0.0)
        chosen = [axis for axis in large if now[axis] < 2 * finest]
        if len(chosen) == 1 and sizes[chosen[0]] < 3 * SMALLEST:
            chosen = []
        strides.append([2 if axis in chosen else 1 for axis in range(len(sizes))])
        for axis in chosen:
            now[axis], sizes[axis] = 2 * now[axis], math.ceil(sizes[axis] / 2)
    return strides


def known_spacing(spacing_mm: Sequence[float | None] | None, sizes: Sequence[int]) -> list[float]:
    """Return the distance of voxels along each axis; where files do not give it, a guess in pixels.

    The guess takes volumes to be as high as wide, and slices to be no closer than pixels, as in most scans.

    Args:
        spacing_mm: Distance of slices, rows and columns, None for an axis where it is not known.
        sizes: Size of a volume, or of a patch that is cut from all axes alike.
    """
    known = [step for step in spacing_mm or () if step]
    if spacing_mm and known:
        return [step or min(known) for step in spacing_mm]
    slices, *pixels = sizes
    return [max(1.0, sum(pixels) / len(pixels) / slices), *(1.0 for _ in pixels)]


def patch_for(shape: Sequence[int], spacing: Sequence[float], voxels: int) -> list[int]:
    """Choose the size of patches of volumes: the median shape, or a part that is about as long along each axis.

    While a patch has too many voxels, its longest axis in space is shortened. All sizes are multiples of the network's
    strides, so that nothing is padded. nnU-Net plans patches likewise, from a cube.

    Args:
        shape: Median size of the volumes along each axis.
        spacing: Distance of voxels along each axis, in any one unit.
        voxels: Most voxels of a patch, unless a smaller patch could not be halved.
    """
    sides = list(shape)
    while True:
        multiples = total_strides(strides_for(spacing, sides))
        patch = [-(-side // step) * step for side, step in zip(sides, multiples, strict=True)]
        longer = [axis for axis, step in enumerate(multiples) if patch[axis] > step]
        if math.prod(patch) <= voxels or not longer:
            return patch
        axis = max(longer, key=lambda axis: patch[axis] * spacing[axis])
        sides = [side - multiples[k] if k == axis else side for k, side in enumerate(patch)]

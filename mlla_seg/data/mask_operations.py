"""Operations on the mask of a whole case that remove components or fill holes.

Exported bundles hold a copy of this file, so it needs NumPy and SciPy alone, and works in any order of the axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def postprocessed(
    mask: Array, steps: Sequence[Mapping[str, Any]], background: int = 0, voxel_mm3: float | None = None
) -> Array:
    """Return a mask after some steps, in their order.

    Args:
        mask: Whole numbers, of any shape; axes of length 1 are left out, so that a single slice is an image.
        steps: ``operation``, a key of :data:`OPERATIONS`; ``values`` of the mask that form one region together; and for
            ``minimum_size`` its ``size`` in the ``unit`` ``voxels`` or ``mm3``.
        background: Value of voxels that are removed; holes are filled only where the mask has it.
        voxel_mm3: Volume of a voxel, for sizes in mm3.
    """
    result = np.array(mask, order="C")
    inner = result.reshape([n for n in mask.shape if n > 1] or [1])
    for step in steps:
        region = np.isin(inner, step["values"])
        if not region.any():
            continue
        box = _box(region)
        part = inner[box]
        voxels = step.get("size", 0) / (voxel_mm3 or 1.0) if step.get("unit") == "mm3" else step.get("size", 0)
        wanted = OPERATIONS[step["operation"]](region[box], voxels)
        part[region[box] & ~wanted] = background
        part[wanted & ~region[box] & (part == background)] = step["values"][0]
    return result


def keep_largest(region: Array, _: float = 0) -> Array:
    """Keep the largest component of a region; voxels that share a corner are connected, as in nnU-Net."""
    components, sizes = _components(region)
    return components == sizes.argmax()


def minimum_size(region: Array, voxels: float) -> Array:
    """Remove the components of a region that have fewer voxels."""
    components, sizes = _components(region)
    return (sizes >= max(voxels, 1))[components]


def fill_holes(region: Array, _: float = 0) -> Array:
    """Add the voxels from which no path over faces leads out of the region's bounding box."""
    from scipy.ndimage import label

    outside, _count = label(~np.pad(region, 1))
    filled: Array = (outside != outside.flat[0])[(slice(1, -1),) * region.ndim]
    return filled


OPERATIONS: dict[str, Callable[[Array, float], Array]] = {
    "keep_largest": keep_largest,
    "minimum_size": minimum_size,
    "fill_holes": fill_holes,
}
"""Operations by name; each maps a region, bool, and a number of voxels to the region after it."""


def _components(region: Array) -> tuple[Array, Array]:
    """Return the number of each voxel's component, and the size of each, 0 for what is outside of the region."""
    from scipy.ndimage import label

    components, _ = label(region, np.ones((3,) * region.ndim))
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return components, sizes


def _box(region: Array) -> tuple[slice, ...]:
    """Return the bounding box of a region, which is not empty."""
    box = []
    for axis in range(region.ndim):
        others = tuple(k for k in range(region.ndim) if k != axis)
        found = np.flatnonzero(region.any(axis=others))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)

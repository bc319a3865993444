"""Boundary IoU (Cheng et al. 2021, arXiv 2103.16562).

The boundary of a region is the set of its pixels within ``width`` pixels of its edge; boundary IoU is the IoU of the
boundaries of prediction and truth. Unlike IoU it stays sensitive to boundary errors of large regions, and unlike the
distances of :mod:`mlla_seg.evaluation.surface_distance` its cost does not grow with the length of the edges.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.picture import Array

WIDTH = 5
"""Default width of a boundary in pixels."""


def boundary(region: Array, width: int, unknown: Array | None = None) -> Array:
    """Return the pixels of a region within ``width`` pixels of its edge (Chebyshev distance).

    The border of the image is an edge, as in the paper. The border of unknown pixels is not: they extend the region but
    do not belong to its boundary.

    Args:
        region: ``(H, W)`` bool.
        width: Width of the boundary in pixels, 1 or more.
        unknown: ``(H, W)`` bool; none by default.

    Returns:
        ``(H, W)`` bool.
    """
    from scipy.ndimage import minimum_filter

    extended = region if unknown is None else region | unknown
    interior = minimum_filter(extended.view(np.uint8), size=2 * width + 1, mode="constant", cval=0).astype(bool)
    edge = region & ~interior
    return edge if unknown is None else edge & ~unknown


def boundary_counts(
    prediction: Tensor, mask: Tensor, num_classes: int, width: int = WIDTH, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Count the boundary pixels of one case per class; sums over cases give the boundary IoU of a split.

    Args:
        prediction: Class indices ``(1, H, W)``.
        mask: True class indices ``(1, H, W)``; pixels of ``ignore_index`` are not counted and form no edge.
        num_classes: Number of classes K.
        width: Width of a boundary in pixels.
        ignore_index: Class index of ignored pixels.

    Returns:
        ``(K, 2)`` int64: pixels in the intersection and in the union of both boundaries.
    """
    predicted, true = prediction[0].numpy(), mask[0].numpy()
    unknown = true == ignore_index
    counts = torch.zeros(num_classes, 2, dtype=torch.int64)
    for k in range(num_classes):
        found, there = (boundary(labels == k, width, unknown) for labels in (predicted, true))
        counts[k] = torch.tensor([np.count_nonzero(found & there), np.count_nonzero(found | there)])
    return counts

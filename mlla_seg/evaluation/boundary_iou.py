"""Agreement near the boundaries of regions: boundary IoU (Cheng et al. 2021, arXiv 2103.16562).

The boundary of a region is those of its pixels that lie within ``width`` pixels of its edge; boundary IoU is the
intersection over union of the boundaries of prediction and truth. Unlike IoU it does not become easy as regions grow,
and unlike the distances of :mod:`mlla_seg.evaluation.surface_distance` its cost does not grow with the length of the
edges.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.bool_]

WIDTH = 5
"""Pixels from the edge that belong to a boundary, unless said otherwise."""


def boundary(region: Array, width: int, unknown: Array | None = None) -> Array:
    """Pixels of a region within ``width`` pixels of its edge, diagonal steps counting as one.

    The border of the image is an edge, as in the paper. Where it is unknown what a pixel is, there is none: such
    pixels are taken as more of the region, and do not belong to its boundary.

    Args:
        region: ``(H, W)`` bool.
        width: Pixels, 1 or more.
        unknown: ``(H, W)`` bool, likewise, none by default.

    Returns:
        ``(H, W)`` bool.
    """
    from scipy.ndimage import minimum_filter

    extended = region if unknown is None else region | unknown
    interior = minimum_filter(extended.view(np.uint8), size=2 * width + 1, mode="constant", cval=0).astype(bool)
    edge = region & ~interior
    return edge if unknown is None else edge & ~unknown


def boundary_counts(
    prediction: Tensor, mask: Tensor, num_classes: int, width: int = WIDTH, ignore_index: int = 255
) -> Tensor:
    """Boundary pixels per class of one case, whose sums over cases give the boundary IoU of a split.

    Args:
        prediction: Class indices ``(1, H, W)``.
        mask: True class indices ``(1, H, W)``; pixels of ``ignore_index`` are not counted and make no edge.
        num_classes: Classes K.
        width: Pixels from the edge that belong to a boundary.
        ignore_index: Class index that is not counted.

    Returns:
        ``(K, 2)`` int64: pixels in both boundaries, and in either.
    """
    predicted, true = prediction[0].numpy(), mask[0].numpy()
    unknown = true == ignore_index
    counts = torch.zeros(num_classes, 2, dtype=torch.int64)
    for k in range(num_classes):
        found, there = (boundary(labels == k, width, unknown) for labels in (predicted, true))
        counts[k] = torch.tensor([np.count_nonzero(found & there), np.count_nonzero(found | there)])
    return counts

"""Surface distances between prediction and truth in units of the spacing: HD95, ASSD and NSD.

The surface of a region is the set of its voxels that share a face with a voxel outside or with the border of the image.
MONAI computes the distance of each surface voxel to the other surface. The measures follow Metrics Reloaded
(arXiv 2206.01653): HD95 is the larger of the two 95th percentiles, ASSD the mean over the voxels of both surfaces, NSD
the fraction of them within a tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mlla_seg.data.formats.classes import IGNORE_INDEX

MEASURES = ("hd95", "assd", "nsd")


def surface_distances(prediction: Tensor, truth: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the distance of each surface voxel of one region to the surface of the other.

    Args:
        prediction: Bool, any number of axes, not empty.
        truth: Bool of the same shape, not empty.
        spacing: Voxel spacing along each axis.

    Returns:
        Float64 distances of the surface voxels of the prediction, and of those of the truth.
    """
    from monai.metrics.utils import get_edge_surface_distance

    _, (there, back), _ = get_edge_surface_distance(prediction, truth, spacing=list(spacing), symmetric=True)
    return there.double(), back.double()


def surface_scores(prediction: Tensor, truth: Tensor, spacing: Sequence[float], tolerance: float) -> Tensor:
    """Return HD95, ASSD and NSD of one class in one case.

    If exactly one of the regions is empty, the worst values are returned: the diagonal of the image for both distances,
    0 for NSD. If both are empty, all three are NaN.

    Args:
        prediction: ``(S, H, W)`` bool; a single slice is treated as a 2D image.
        truth: Bool of the same shape.
        spacing: Spacing of slices, rows and columns.
        tolerance: Tolerance of NSD, in the same unit.

    Returns:
        ``(3,)`` float64 in the order of ``MEASURES``.
    """
    diagonal = math.sqrt(sum((n * step) ** 2 for n, step in zip(truth.shape, spacing, strict=True) if n > 1))
    if len(truth) == 1:
        prediction, truth, spacing = prediction[0], truth[0], spacing[1:]
    predicted, present = bool(prediction.any()), bool(truth.any())
    if not predicted and not present:
        return torch.full((3,), math.nan, dtype=torch.float64)
    if not predicted or not present:
        return torch.tensor([diagonal, diagonal, 0.0], dtype=torch.float64)
    there, back = surface_distances(prediction, truth, spacing)
    both = torch.cat((there, back))
    hd95 = max(there.quantile(0.95), back.quantile(0.95))
    return torch.stack((hd95, both.mean(), (both <= tolerance).double().mean()))


def case_surface_scores(
    prediction: Tensor,
    mask: Tensor,
    num_classes: int,
    spacing: Sequence[float],
    tolerance: float,
    ignore_index: int = IGNORE_INDEX,
    background: int | None = 0,
) -> Tensor:
    """Return HD95, ASSD and NSD of every class of one case, ``(K, 3)`` float64; NaN for the background.

    Args:
        prediction: Class indices ``(S, H, W)``.
        mask: True class indices ``(S, H, W)``; voxels of ``ignore_index`` belong to no region.
        num_classes: Number of classes K.
        spacing: Spacing of slices, rows and columns.
        tolerance: Tolerance of NSD, in the same unit.
        ignore_index: Class index of ignored voxels.
        background: Class index that is not scored, if any.
    """
    valid = mask != ignore_index
    scores = torch.full((num_classes, len(MEASURES)), math.nan, dtype=torch.float64)
    for k in range(num_classes):
        if k != background:
            scores[k] = surface_scores((prediction == k) & valid, (mask == k) & valid, spacing, tolerance)
    return scores

"""Distances between the surfaces of a predicted and a true region, in the units of the spacing.

A surface is the voxels of a region that touch, by a face, one outside of it or the border of the image. MONAI finds
them and the distances from each to the nearest of the other; what is made of those follows Metrics Reloaded
(arXiv 2206.01653): HD95 the larger of the two 95th percentiles, ASSD the mean over the voxels of both surfaces, NSD the
fraction of them within a tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MEASURES = ("hd95", "assd", "nsd")


def surface_distances(prediction: Tensor, truth: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Distances from every surface voxel of one region to the nearest of the other.

    Args:
        prediction: Bool, any number of axes, with at least one voxel.
        truth: Bool of the same shape, likewise.
        spacing: Distance of neighbouring voxels along each axis.

    Returns:
        Float64: one distance per surface voxel of the prediction, and one per surface voxel of the truth.
    """
    from monai.metrics.utils import get_edge_surface_distance

    _, (there, back), _ = get_edge_surface_distance(prediction, truth, spacing=list(spacing), symmetric=True)
    return there.double(), back.double()


def surface_scores(prediction: Tensor, truth: Tensor, spacing: Sequence[float], tolerance: float) -> Tensor:
    """HD95, ASSD and NSD of one class in one case.

    Where only one of the regions has voxels nothing can be measured, and the worst stands in: the diagonal of the image
    for both distances, 0 for NSD. Where neither has any, all three are NaN.

    Args:
        prediction: ``(S, H, W)`` bool; a single slice is taken as an image of two axes.
        truth: Bool of the same shape.
        spacing: Distance of neighbouring slices, rows and columns.
        tolerance: Distance up to which surfaces agree for NSD, in the same unit.

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
    ignore_index: int = 255,
    background: int | None = 0,
) -> Tensor:
    """HD95, ASSD and NSD of every class of one case, ``(K, 3)`` float64; the background's are NaN.

    Args:
        prediction: Class indices ``(S, H, W)``.
        mask: True class indices ``(S, H, W)``; voxels of ``ignore_index`` belong to no region.
        num_classes: Classes K.
        spacing: Distance of neighbouring slices, rows and columns.
        tolerance: Of NSD.
        ignore_index: Class index that is not scored.
        background: Class index without a surface of its own, if any.
    """
    valid = mask != ignore_index
    scores = torch.full((num_classes, len(MEASURES)), math.nan, dtype=torch.float64)
    for k in range(num_classes):
        if k != background:
            scores[k] = surface_scores((prediction == k) & valid, (mask == k) & valid, spacing, tolerance)
    return scores

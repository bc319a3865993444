"""Surface distances between prediction and truth in units of the spacing: HD95, ASSD and NSD.

There are two definitions of a surface, both computed by MONAI:

* Its voxels: those of the region that share a face with a voxel outside or with the border of the image. The measures
  follow Metrics Reloaded (arXiv 2206.01653): HD95 is the larger of the two 95th percentiles, ASSD the mean over the
  voxels of both surfaces, NSD the fraction of them within a tolerance.
* Its elements, each weighted by its area (``by_area``), as in DeepMind's surface-distance (arXiv 1809.04430): wherever
  2 x 2 x 2 neighbouring voxels are not all alike, marching cubes puts a piece of surface, or in a single slice a piece
  of contour with a length. HD95, ASSD and NSD are percentile, mean and fraction of the area. Counting voxels instead
  gives oblique surfaces, and in anisotropic volumes those along the slices, another share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mlla_seg.data.formats.classes import IGNORE_INDEX

MEASURES = ("hd95", "assd", "nsd")
BY_AREA = tuple(f"{measure}_area" for measure in MEASURES)
"""Names of the measures weighted by area."""


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


def element_distances(
    prediction: Tensor, truth: Tensor, spacing: Sequence[float]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the distance of each surface element of one region to the elements of the other, and their areas.

    Args:
        prediction: Bool, two or three axes, not empty.
        truth: Bool of the same shape, not empty.
        spacing: Voxel spacing along each axis.

    Returns:
        Float64 distances and areas (lengths for two axes) of the elements of the prediction, and those of the truth.
    """
    from monai.metrics.utils import get_edge_surface_distance

    edges, distances, areas = get_edge_surface_distance(
        prediction, truth, spacing=list(spacing), use_subvoxels=True, symmetric=True
    )
    first, second = (
        (own.double(), area[edge].double()) for edge, own, area in zip(edges, distances, areas, strict=True)
    )
    return first, second


def surface_scores(
    prediction: Tensor, truth: Tensor, spacing: Sequence[float], tolerance: float, by_area: bool = False
) -> Tensor:
    """Return HD95, ASSD and NSD of one class in one case.

    If exactly one of the regions is empty, the worst values are returned: the diagonal of the image for both distances,
    0 for NSD. If both are empty, all three are NaN.

    Args:
        prediction: ``(S, H, W)`` bool; a single slice is treated as a 2D image.
        truth: Bool of the same shape.
        spacing: Spacing of slices, rows and columns.
        tolerance: Tolerance of NSD, in the same unit.
        by_area: Weight surface elements by their area instead of counting surface voxels.

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
    if by_area:
        return _weighted_scores(element_distances(prediction, truth, spacing), tolerance)
    there, back = surface_distances(prediction, truth, spacing)
    both = torch.cat((there, back))
    hd95 = max(there.quantile(0.95), back.quantile(0.95))
    return torch.stack((hd95, both.mean(), (both <= tolerance).double().mean()))


def _weighted_scores(surfaces: Sequence[tuple[Tensor, Tensor]], tolerance: float) -> Tensor:
    """Return HD95, ASSD and NSD of the distances and areas of both surfaces."""
    hd95 = torch.stack([_weighted_percentile(*surface, 0.95) for surface in surfaces]).max()
    both, areas = (torch.cat(parts) for parts in zip(*surfaces, strict=True))
    return torch.stack((hd95, (both * areas).sum() / areas.sum(), areas[both <= tolerance].sum() / areas.sum()))


def _weighted_percentile(values: Tensor, weights: Tensor, part: float) -> Tensor:
    """Return the smallest value up to which lies this part of the weight, as in DeepMind's package."""
    ordered, order = values.sort()
    reached = weights[order].cumsum(0) / weights.sum()
    return ordered[min(int((reached < part).sum()), len(ordered) - 1)]


def case_surface_scores(
    prediction: Tensor,
    mask: Tensor,
    num_classes: int,
    spacing: Sequence[float],
    tolerance: float,
    ignore_index: int = IGNORE_INDEX,
    background: int | None = 0,
    by_area: bool = False,
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
        by_area: See :func:`surface_scores`.
    """
    valid = mask != ignore_index
    scores = torch.full((num_classes, len(MEASURES)), math.nan, dtype=torch.float64)
    for k in range(num_classes):
        if k != background:
            scores[k] = surface_scores((prediction == k) & valid, (mask == k) & valid, spacing, tolerance, by_area)
    return scores

"""Scores of regions, which overlap: each measure sees a region as class 1 of two, as nnU-Net scores them.

Predictions are masks as they are written, so a region of the prediction is the union of its written classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.classes import IGNORE_INDEX


def inside(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Return 1 within a region and 0 outside, uint8; ``IGNORE_INDEX`` stays.

    Args:
        labels: Class indices of any shape.
        classes: Indices of the region's classes.
    """
    table = torch.zeros(256, dtype=torch.uint8)
    table[list(classes)] = 1
    table[IGNORE_INDEX] = IGNORE_INDEX
    return table[labels.long()]


def measured(
    measure: Callable[[Tensor, Tensor, int], Tensor], prediction: Tensor, mask: Tensor, spec: DataSpec
) -> Tensor:
    """Return a measure of every class ``(K, n)``, or of every region ``(R, n)`` if the network segments regions.

    Args:
        measure: Maps predicted and true class indices and the number of classes to a row per class.
        prediction: Class indices ``(S, H, W)``.
        mask: True class indices ``(S, H, W)``.
        spec: Description of the data.
    """
    if not spec.regions:
        return measure(prediction, mask, len(spec.classes))
    parts = [region.classes for region in spec.regions]
    return torch.stack([measure(inside(prediction, part), inside(mask, part), 2)[1] for part in parts])


def region_counts(confusion: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Return TP, FP and FN per region, ``(..., R, 3)``, of confusion matrices of classes ``(..., K, K)``.

    Args:
        confusion: Voxel counts, a row per true class, a column per predicted class.
        regions: Indices of the classes of each region.
    """
    rows = []
    for region in map(list, regions):
        tp = confusion[..., region, :][..., region].sum(dim=(-2, -1))
        predicted, true = confusion[..., region].sum(dim=(-2, -1)), confusion[..., region, :].sum(dim=(-2, -1))
        rows.append(torch.stack((tp, predicted - tp, true - tp), dim=-1))
    return torch.stack(rows, dim=-2)

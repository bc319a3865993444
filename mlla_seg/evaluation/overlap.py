"""Overlap scores per case: Dice, IoU, precision and recall from confusion matrices.

Scores are computed per case (a volume, a photo, a scene), never per batch, so they do not depend on batch size, number
of devices or order. A class that is absent from both truth and prediction of a case has no score there (NaN) and is
left out of the mean over cases; one that is present in only one of them scores 0 in every measure.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from mlla_seg.data.formats.classes import IGNORE_INDEX

BLOCK = 2**24
"""Voxels counted at a time, which bounds the extra memory for large volumes."""


def case_confusion(prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Return the confusion matrix of one case.

    Args:
        prediction: Class indices of any shape.
        mask: True class indices of the same shape; voxels of ``ignore_index`` are not counted.
        num_classes: Number of classes K.
        ignore_index: Class index of ignored voxels.

    Returns:
        ``(K, K)`` int64 voxel counts: a row per true class, a column per predicted class.
    """
    confusion = torch.zeros(num_classes**2, dtype=torch.int64, device=mask.device)
    for predicted, true in zip(prediction.flatten().split(BLOCK), mask.flatten().split(BLOCK), strict=True):
        valid = true != ignore_index
        pairs = true[valid].long() * num_classes + predicted[valid].long()
        confusion += torch.bincount(pairs, minlength=num_classes**2)
    return confusion.view(num_classes, num_classes)


def counts_of(confusion: Tensor) -> Tensor:
    """Return TP, FP and FN per class, ``(..., K, 3)``, of confusion matrices ``(..., K, K)``."""
    hits = confusion.diagonal(dim1=-2, dim2=-1)
    return torch.stack((hits, confusion.sum(-2) - hits, confusion.sum(-1) - hits), dim=-1)


def dice_score(counts: Tensor) -> Tensor:
    """Return 2 TP / (2 TP + FP + FN) of counts ``(..., 3)``, in 0..1; NaN if the class is absent from both."""
    tp, fp, fn = counts.double().unbind(-1)
    return 2 * tp / (2 * tp + fp + fn)


def iou_score(counts: Tensor) -> Tensor:
    """Return TP / (TP + FP + FN) of counts ``(..., 3)``, in 0..1; NaN if the class is absent from both."""
    tp, fp, fn = counts.double().unbind(-1)
    return tp / (tp + fp + fn)


def precision_score(counts: Tensor) -> Tensor:
    """Return TP / (TP + FP) of counts ``(..., 3)``, in 0..1; 0 for a missed class, NaN if it is absent from both."""
    tp, fp, fn = counts.double().unbind(-1)
    return torch.where((tp + fp == 0) & (fn > 0), 0.0, tp / (tp + fp))


def recall_score(counts: Tensor) -> Tensor:
    """Return TP / (TP + FN) of counts ``(..., 3)``, in 0..1; 0 for a hallucinated class, NaN if absent from both."""
    tp, fp, fn = counts.double().unbind(-1)
    return torch.where((tp + fn == 0) & (fp > 0), 0.0, tp / (tp + fn))


OVERLAP_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "dice": dice_score,
    "iou": iou_score,
    "precision": precision_score,
    "recall": recall_score,
}
"""Scores computed from the counts of a case, by name."""


class CaseTable(Metric):
    """Metric that stores values per case, one row for each case of a data set.

    Rows are overwritten, not accumulated, and processes are reduced by the maximum, so a case that a distributed
    sampler repeats as padding is still counted once.

    Args:
        num_cases: Number of cases in the data set.
        shape: Shape of the values of one case.
        dtype: ``torch.int64`` for exact voxel counts; a floating type may hold NaN.
    """

    full_state_update = False
    rows: Tensor

    def __init__(self, num_cases: int, *shape: int, dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        unseen = torch.full((num_cases, *shape), -torch.inf if dtype.is_floating_point else -1, dtype=dtype)
        self.add_state("rows", unseen, dist_reduce_fx="max")

    def update(self, index: int, values: Tensor) -> None:
        """Set the values of case ``index``."""
        self.rows[index] = values.to(self.rows)

    def compute(self) -> Tensor:
        """Return all rows ``(cases, *shape)``, -1 or -inf for unseen cases; see :func:`seen_cases`."""
        return self.rows


def seen_cases(confusion: Tensor) -> Tensor:
    """Return the indices of scored cases, from the confusion matrices ``(cases, K, K)`` of a :class:`CaseTable`."""
    return (confusion >= 0).all(dim=-1).all(dim=-1).nonzero()[:, 0]


def mean_scores(scores: Tensor, background: int | None) -> tuple[Tensor, Tensor]:
    """Return means of scores ``(cases, K)``: per class over cases, ``(K,)``, and over foreground classes."""
    per_class = scores.nanmean(dim=0)
    foreground = [k for k in range(len(per_class)) if k != background]
    return per_class, per_class[foreground].nanmean()

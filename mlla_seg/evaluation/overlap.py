"""Scores per case, never per batch: the same numbers for any batch size, number of devices and order.

A case (a volume, a photo, a scene) is counted once, in a confusion matrix of its own; from that follow true positives,
false positives and false negatives per class, and from those the overlap scores. A class absent from both truth and
prediction of a case has no score there (NaN) and is left out of the mean over cases; one that is in only one of them
scores 0 in each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

BLOCK = 2**24
"""Voxels counted at once, so that a large volume needs little memory beside itself."""


def case_confusion(prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Confusion matrix of one case.

    Args:
        prediction: Class indices of any shape.
        mask: True class indices of the same shape; pixels of ``ignore_index`` are not counted.
        num_classes: Classes K.
        ignore_index: Class index that is not counted.

    Returns:
        ``(K, K)`` int64 voxels: a row per true class, a column per predicted one.
    """
    confusion = torch.zeros(num_classes**2, dtype=torch.int64, device=mask.device)
    for predicted, true in zip(prediction.flatten().split(BLOCK), mask.flatten().split(BLOCK), strict=True):
        valid = true != ignore_index
        pairs = true[valid].long() * num_classes + predicted[valid].long()
        confusion += torch.bincount(pairs, minlength=num_classes**2)
    return confusion.view(num_classes, num_classes)


def counts_of(confusion: Tensor) -> Tensor:
    """True positives, false positives and false negatives per class, ``(..., K, 3)``, from ``(..., K, K)``."""
    hits = confusion.diagonal(dim1=-2, dim2=-1)
    return torch.stack((hits, confusion.sum(-2) - hits, confusion.sum(-1) - hits), dim=-1)


def dice_score(counts: Tensor) -> Tensor:
    """Dice from counts ``(..., 3)``: 2 TP / (2 TP + FP + FN), in 0..1, NaN where the class is absent from both."""
    tp, fp, fn = counts.double().unbind(-1)
    return 2 * tp / (2 * tp + fp + fn)


def iou_score(counts: Tensor) -> Tensor:
    """Intersection over union from counts ``(..., 3)``, in 0..1, NaN where the class is absent from both."""
    tp, fp, fn = counts.double().unbind(-1)
    return tp / (tp + fp + fn)


def precision_score(counts: Tensor) -> Tensor:
    """TP / (TP + FP) from counts ``(..., 3)``, in 0..1: 0 for a missed class, NaN where it is absent from both."""
    tp, fp, fn = counts.double().unbind(-1)
    return torch.where((tp + fp == 0) & (fn > 0), 0.0, tp / (tp + fp))


def recall_score(counts: Tensor) -> Tensor:
    """TP / (TP + FN) from counts ``(..., 3)``, in 0..1: 0 for an invented class, NaN where it is absent from both."""
    tp, fp, fn = counts.double().unbind(-1)
    return torch.where((tp + fn == 0) & (fp > 0), 0.0, tp / (tp + fn))


OVERLAP_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "dice": dice_score,
    "iou": iou_score,
    "precision": precision_score,
    "recall": recall_score,
}
"""What follows from the counts of a case, by name."""


class CaseTable(Metric):
    """Numbers of every case of a data set, each case in its own row.

    A row is written, not added to, and processes are joined by the maximum: a case that a distributed sampler gives
    to two processes to come out even is still counted once.

    Args:
        num_cases: Cases of the data set.
        shape: Of the numbers of one case.
        dtype: ``torch.int64`` for counts of voxels, which are exact; a floating type may hold NaN.
    """

    full_state_update = False
    rows: Tensor

    def __init__(self, num_cases: int, *shape: int, dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        unseen = torch.full((num_cases, *shape), -torch.inf if dtype.is_floating_point else -1, dtype=dtype)
        self.add_state("rows", unseen, dist_reduce_fx="max")

    def update(self, index: int, values: Tensor) -> None:
        """Writes the numbers of case ``index``."""
        self.rows[index] = values.to(self.rows)

    def compute(self) -> Tensor:
        """``(cases, *shape)`` in the order of the data set, -1 or -inf where not seen; see :func:`seen_cases`."""
        return self.rows


def seen_cases(confusion: Tensor) -> Tensor:
    """Indices of the cases that were scored, from the matrices ``(cases, K, K)`` of a :class:`CaseTable`."""
    return (confusion >= 0).all(dim=-1).all(dim=-1).nonzero()[:, 0]


def mean_scores(scores: Tensor, background: int | None) -> tuple[Tensor, Tensor]:
    """Means of scores ``(cases, K)``: per class over cases, ``(K,)``, and of those over all but the background."""
    per_class = scores.nanmean(dim=0)
    foreground = [k for k in range(len(per_class)) if k != background]
    return per_class, per_class[foreground].nanmean()

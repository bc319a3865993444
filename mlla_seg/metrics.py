"""Scores per case, never per batch: the same numbers for any batch size, number of devices and order.

A case (a volume, a photo) is counted once: true positives, false positives and false negatives per class. Dice and
IoU follow from the counts; a class absent from both truth and prediction of a case has no score there (NaN) and is left
out of the mean over cases; one that is in only one of them scores 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


def case_counts(prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """True positives, false positives and false negatives per class of one case.

    Args:
        prediction: Class indices of any shape.
        mask: True class indices of the same shape; pixels of ``ignore_index`` are not counted.
        num_classes: Classes K.
        ignore_index: Class index that is not counted.

    Returns:
        ``(K, 3)`` int64.
    """
    valid = mask != ignore_index
    pairs = mask[valid].long() * num_classes + prediction[valid].long()
    confusion = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)  # (truth, prediction)
    hits = confusion.diagonal()
    return torch.stack((hits, confusion.sum(0) - hits, confusion.sum(1) - hits), dim=1)


def dice_score(counts: Tensor) -> Tensor:
    """Dice from counts ``(..., 3)``: 2 TP / (2 TP + FP + FN), in 0..1, NaN where the class is absent from both."""
    tp, fp, fn = counts.double().unbind(-1)
    return 2 * tp / (2 * tp + fp + fn)


def iou_score(counts: Tensor) -> Tensor:
    """Intersection over union from counts ``(..., 3)``, in 0..1, NaN where the class is absent from both."""
    tp, fp, fn = counts.double().unbind(-1)
    return tp / (tp + fp + fn)


class CaseScores(Metric):
    """Counts of every case of a data set, each in its own place.

    A place is written, not added to, and processes are joined by the maximum: a case that a distributed sampler gives
    to two processes to come out even is still counted once.

    Args:
        num_cases: Cases of the data set.
        num_classes: Classes K.
        ignore_index: Class index that is not counted.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_cases: int, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.add_state("counts", torch.full((num_cases, num_classes, 3), -1), dist_reduce_fx="max")

    def update(self, prediction: Tensor, mask: Tensor, index: int) -> None:
        """Counts case ``index``: ``prediction`` and ``mask`` are class indices of one shape."""
        num_classes = self.counts.shape[1]
        self.counts[index] = case_counts(prediction, mask, num_classes, self.ignore_index).to(self.counts.device)

    def compute(self) -> Tensor:
        """Counts ``(cases, K, 3)`` in the order of the data set, -1 where not seen; see :func:`seen_cases`."""
        return self.counts


def seen_cases(counts: Tensor) -> Tensor:
    """Indices of the cases that were scored, from the counts ``(cases, K, 3)`` of :class:`CaseScores`."""
    return (counts >= 0).all(dim=-1).all(dim=-1).nonzero()[:, 0]


def mean_scores(scores: Tensor, background: int | None) -> tuple[Tensor, Tensor]:
    """Means of scores ``(cases, K)``: per class over cases, ``(K,)``, and of those over all but the background."""
    per_class = scores.nanmean(dim=0)
    foreground = [k for k in range(len(per_class)) if k != background]
    return per_class, per_class[foreground].nanmean()

"""Calibration: whether pixels with a probability of 0.8 belong to their class in 80 % of all cases.

Probabilities are sorted into ``BINS`` equal bins from 0 to 1, as in Guo et al. 2017 (arXiv 1706.04599). The expected
calibration error (ECE) is the mean over pixels of the difference between the mean probability of a pixel's bin and the
fraction of the bin's pixels that belong to the class. It is measured in two ways:

* of one class against the rest, over all labelled pixels, most of which are far from the class and easy;
* over the pixels that the network gives the class, or for regions those with a probability above 0.5. Together, these
  are the usual ECE of the top label.

Both sets of pixels depend on the prediction alone: pixels chosen by their true class would seem badly calibrated even
with perfect probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.outputs import probabilities
from mlla_seg.data.regions import membership

BINS = 15
UNIT = 2**24
"""Probabilities are summed as whole multiples of 1 / UNIT, so that sums do not depend on the order of the pixels."""
BLOCK = 2**20
"""Probabilities counted at a time, which bounds the extra memory for large images."""
EVERYWHERE, CHOSEN = 0, 1
"""The two sets of pixels: all that are labelled, and those that the network gives the class."""
SHAPE = (2, BINS, 3)
"""Counts of one class: by set and bin the pixels, the sum of their probabilities, and those that belong to it."""


class CaseCalibration:
    """Counts of one case, collected part by part while it is predicted.

    Args:
        mask: True class indices ``(S, H, W)``; ignored pixels are not counted.
        spec: Description of the data.
    """

    def __init__(self, mask: Tensor, spec: DataSpec) -> None:
        self.mask = mask
        self.writes = spec.writes
        classes = len(spec.classes)
        rows = membership(spec.regions, classes)
        self.belongs = torch.eye(classes, dtype=torch.bool) if rows is None else torch.tensor(rows).bool().T
        self.counts = torch.zeros(self.belongs.shape[1], *SHAPE, dtype=torch.int64)

    def add(self, first: int, top: int, logits: Tensor) -> None:
        """Count a part of the case.

        Args:
            first: Its first slice.
            top: Its first row.
            logits: ``(n, K, h, W)`` of classes or regions.
        """
        slices, outputs, height, _ = logits.shape
        mask = self.mask[first : first + slices, top : top + height].flatten()
        pixels = max(1, BLOCK // outputs)
        for part, true in zip(logits.movedim(1, -1).flatten(0, 2).split(pixels), mask.split(pixels), strict=True):
            true = true.to(logits.device)
            known = true != IGNORE_INDEX
            self.counts += self._counted(part[known].float(), true[known].long()).cpu()

    def _counted(self, logits: Tensor, true: Tensor) -> Tensor:
        """Return the counts ``(K, *SHAPE)`` of pixels with logits ``(N, K)`` and true classes ``(N,)``."""
        found = probabilities(logits, self.writes)
        places = torch.arange(found.shape[1], device=found.device)
        right = self.belongs.to(found.device)[true]
        chosen = found > 0.5 if self.writes is not None else logits.max(1, keepdim=True)[1] == places
        cells = (found * BINS).long().clamp_(max=BINS - 1) + BINS * places
        weights = (found * UNIT).round().long()
        counts = torch.zeros(3, 2, self.counts.shape[0] * BINS, dtype=torch.int64, device=found.device)
        one = torch.ones_like(weights)
        parts = (
            (cells.flatten(), weights.flatten(), cells[right]),
            (cells[chosen], weights[chosen], cells[right & chosen]),
        )
        for k, (at, weight, hits) in zip((EVERYWHERE, CHOSEN), parts, strict=True):
            counts[0, k].index_add_(0, at, one.flatten()[: len(at)])
            counts[1, k].index_add_(0, at, weight)
            counts[2, k].index_add_(0, hits, one.flatten()[: len(hits)])
        return counts.view(3, 2, -1, BINS).permute(2, 1, 3, 0)


def calibration_error(counts: Tensor) -> Tensor:
    """Return the expected calibration error, 0..1, of counts ``(..., BINS, 3)``; NaN if there is no pixel."""
    pixels, total, right = counts.double().unbind(-1)
    return (total / UNIT - right).abs().sum(-1) / pixels.sum(-1)


def reliability(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean probability and fraction of true pixels of each bin, ``(..., BINS)``; NaN for empty bins."""
    pixels, total, right = counts.double().unbind(-1)
    return total / UNIT / pixels, right / pixels

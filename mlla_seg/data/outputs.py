"""From logits to probabilities and labels: one rule for scoring, prediction, ensembles and exported files.

A network of classes gives each pixel the class of its largest logit, and its probabilities are a softmax. A network of
regions (:mod:`mlla_seg.data.regions`) has a sigmoid per region, and a pixel takes the class that is written by the last
region whose probability exceeds 0.5, as in nnU-Net. ``writes`` tells the two apart: the index of the class that each
region writes, or None for classes (:attr:`mlla_seg.data.dataspec.DataSpec.writes`).

The runtime repeats both functions in NumPy. TorchScript and ``torch.export`` support them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(logits: Tensor, writes: list[int] | None, dim: int = 1) -> Tensor:
    """Return the probabilities of classes, which sum to 1 along ``dim``, or of regions, each on its own."""
    return logits.softmax(dim) if writes is None else logits.sigmoid()


def labels(logits: Tensor, writes: list[int] | None, dim: int = 1) -> Tensor:
    """Return class indices (uint8); ``dim`` is the axis of classes or regions."""
    if writes is None:
        return logits.max(dim)[1].to(torch.uint8)  # argmax takes five times as long on CPUs
    found = torch.zeros_like(logits.select(dim, 0), dtype=torch.uint8)
    for i in range(len(writes)):  # later regions overwrite earlier ones
        found = torch.where(logits.select(dim, i) > 0, writes[i], found)
    return found.to(torch.uint8)

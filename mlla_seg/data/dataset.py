"""Datasets over the store: slices for training, whole cases for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mlla_seg.data.store import StoredCase
from mlla_seg.data.transforms import Augment
from mlla_seg.slices import with_neighbours


class SliceDataset(Dataset[dict[str, torch.Tensor]]):
    """Single slices: ``{"image": ((2 k + 1) C, H, W) float32 in raw units, "mask": (H, W) int64}``, k neighbours."""

    def __init__(self, cases: Sequence[StoredCase], augment: Augment, context: int = 0) -> None:
        self.cases = list(cases)
        self.augment = augment
        self.context = context
        self.first = np.cumsum([0, *(case.shape[0] for case in self.cases)])  # of each case, in all slices

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        case = int(np.searchsorted(self.first, index, side="right")) - 1
        position = index - int(self.first[case])
        image = with_neighbours(self.cases[case].image(), [position], self.context)[0].astype(np.float32)
        mask = np.array(self.cases[case].mask()[position])
        seed = int(torch.randint(2**31, ()))  # torch seeds each worker anew in each epoch
        image, mask = self.augment(image, mask, seed)
        return {"image": torch.from_numpy(image), "mask": torch.from_numpy(mask).long()}


class CaseDataset(Dataset[dict[str, Any]]):
    """Whole cases: ``{"image": (S, C, H, W) float32, "mask": (S, H, W) int64, "index": int, "name": str}``."""

    def __init__(self, cases: Sequence[StoredCase]) -> None:
        self.cases = list(cases)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self.cases[index]
        image = torch.from_numpy(case.image().astype(np.float32))
        mask = torch.from_numpy(case.mask().astype(np.int64))
        return {"image": image, "mask": mask, "index": index, "name": case.name}

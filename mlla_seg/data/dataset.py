"""Datasets over the store: slices for training, whole cases for evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mlla_seg.data.store import StoredCase
from mlla_seg.data.transforms import Augment
from mlla_seg.slices import nearest_slice, network_grid, slices_at


class SliceDataset(Dataset[dict[str, torch.Tensor]]):
    """Single slices: ``{"image": ((2 k + 1) C, H, W) float32 in raw units, "mask": (H, W) int64}``, k neighbours.

    Args:
        cases: Where the slices come from.
        augment: What happens to each.
        how: ``spacing_mm``, ``resize`` and ``context`` of the spec: the grid on which slices are drawn, and k.
    """

    def __init__(self, cases: Sequence[StoredCase], augment: Augment, how: Mapping[str, Any]) -> None:
        self.cases = list(cases)
        self.augment = augment
        self.context = how.get("context", 0)
        self.grids = [network_grid((s, h, w), case.spacing_mm, how) for case in cases for s, _, h, w in [case.shape]]
        self.first = np.cumsum([0, *(grid[0] for grid in self.grids)])  # slice of each case, among all

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        k = int(np.searchsorted(self.first, index, side="right")) - 1
        position = index - int(self.first[k])
        case, (slices, *size) = self.cases[k], self.grids[k]
        image = slices_at(case.image(), [position], self.context, slices)[0].astype(np.float32)
        mask = np.array(case.mask()[nearest_slice(position, slices, case.shape[0])])
        seed = int(torch.randint(2**31, ()))  # torch seeds each worker anew in each epoch
        image, mask = self.augment(image, mask, seed, (size[0], size[1]))
        return {"image": torch.from_numpy(image), "mask": torch.from_numpy(mask).long()}


class CaseDataset(Dataset[dict[str, Any]]):
    """Whole cases, image and mask as they are stored, so that a large volume is in memory once.

    ``{"image": (S, C, H, W), "mask": (S, H, W) uint8, "index": int, "name": str, "spacing_mm": tuple or None}``
    """

    def __init__(self, cases: Sequence[StoredCase]) -> None:
        self.cases = list(cases)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self.cases[index]
        image = np.array(case.image())
        if image.dtype == np.uint16:
            image = image.astype(np.int32)  # torch hardly computes with uint16
        return {
            "image": torch.from_numpy(image),
            "mask": torch.from_numpy(np.array(case.mask())),
            "index": index,
            "name": case.name,
            "spacing_mm": case.spacing_mm,
        }

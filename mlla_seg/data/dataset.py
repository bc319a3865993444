"""Datasets over the store: slices for training, whole cases for evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mlla_seg.data.store import StoredCase
from mlla_seg.data.transforms import Augment
from mlla_seg.resampling import fill_gaps
from mlla_seg.slices import Grid, nearest_slice, network_grid, slices_at


class SliceDataset(Dataset[dict[str, Any]]):
    """Samples: ``{"image": ((2 k + 1) C, H, W) float32 in raw units, "mask": (H, W) int64, "name": str}``.

    An epoch has every slice of a volume once. A scene, a case of a single slice, has as many samples as crops fit into
    its area, and only the crop is read from the file.

    Args:
        cases: Where the slices come from.
        augment: What happens to each; knows the size of the crops.
        how: ``spacing_mm``, ``resize`` and ``context`` of the spec: the grid on which slices are drawn, and k.
        balance: Samples around a pixel of a class, each class of a case as often as the others.
    """

    def __init__(
        self, cases: Sequence[StoredCase], augment: Augment, how: Mapping[str, Any], balance: bool = False
    ) -> None:
        self.cases = list(cases)
        self.augment = augment
        self.context = how.get("context", 0)
        self.balance = balance
        self.grids = [network_grid((s, h, w), case.spacing_mm, how) for case in cases for s, _, h, w in [case.shape]]
        self.first = np.cumsum([0, *map(self._samples, self.grids)])  # sample of each case, among all

    def _samples(self, grid: Grid) -> int:
        slices, height, width = grid
        if slices > 1 or self.augment.crop is None:
            return slices
        return max(1, round(height * width / (self.augment.crop[0] * self.augment.crop[1])))

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        k = int(np.searchsorted(self.first, index, side="right")) - 1
        case, (slices, *size) = self.cases[k], self.grids[k]
        seed = int(torch.randint(2**31, ()))  # torch seeds each worker anew in each epoch
        rng = np.random.default_rng(seed)
        position, around = (index - int(self.first[k])) % slices, None
        if self.balance and len(places := case.places()):
            chosen = places[places[:, 0] == rng.choice(np.unique(places[:, 0]))]
            _, stored, *around = chosen[rng.integers(len(chosen))].tolist()
            position = min(nearest_slice(stored, case.shape[0], slices), slices - 1)
        image, mask = case.image(), case.mask()
        if self.augment.crop is not None and tuple(size) == case.shape[2:]:
            rows, columns = crop_around(size, self.augment.crop, around, rng)
            image, mask, size = image[:, :, rows, columns], mask[:, rows, columns], []
        piece = slices_at(image, [position], self.context, slices)[0].astype(np.float32)
        piece = fill_gaps(torch.from_numpy(piece)).numpy()
        labels = np.array(mask[nearest_slice(position, slices, case.shape[0])])
        piece, labels = self.augment(piece, labels, seed, (size[0], size[1]) if size else None)
        return {"image": torch.from_numpy(piece), "mask": torch.from_numpy(labels).long(), "name": case.name}


def crop_around(
    size: Sequence[int], crop: Sequence[int], around: Sequence[int] | None, rng: np.random.Generator
) -> list[slice]:
    """Rows and columns of a random crop inside of ``(height, width)``, which contains the pixel ``around`` if given."""
    parts = []
    for axis, (n, c) in enumerate(zip(size, crop, strict=True)):
        low, high = (0, n - c) if around is None else (around[axis] - c + 1, around[axis])
        first = int(rng.integers(max(0, min(low, n - c)), max(0, min(high, n - c)) + 1))
        parts.append(slice(first, first + c))
    return parts


class CaseDataset(Dataset[dict[str, Any]]):
    """Whole cases, image and mask as they are stored and still in their files, so that a scene of any size will do.

    ``{"image": (S, C, H, W), "mask": (S, H, W) uint8, "index": int, "name": str, "spacing_mm": tuple or None}``; the
    image is NaN where there is no data.
    """

    def __init__(self, cases: Sequence[StoredCase]) -> None:
        self.cases = list(cases)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self.cases[index]
        return {
            "image": torch.from_numpy(case.image()),
            "mask": torch.from_numpy(case.mask()),
            "index": index,
            "name": case.name,
            "spacing_mm": case.spacing_mm,
        }

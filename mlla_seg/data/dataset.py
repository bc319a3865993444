"""Datasets over the store: slices for training, whole cases for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mlla_seg.data.boxes import Box, draw_box, whole
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.resampling import fill_gaps, resize_images, resize_masks
from mlla_seg.data.slices import Grid, View, nearest_slice, seen_by_network, slices_at, standardised
from mlla_seg.data.store import StoredCase
from mlla_seg.data.transforms import Augment


class SliceDataset(Dataset[dict[str, Any]]):
    """Training samples, normalised and augmented, as the encoder gets them.

    ``{"image": ((2 k + 1) C, H, W) float32, "mask": (H, W) int64, "name": str}``, k neighbours. An epoch has each slice
    of a volume once. A scene, a case of a single slice, has as many samples as crops fit into its area, and only what a
    sample shows is read from the file. Seed, epoch and index alone decide a sample, whichever process draws it.

    Args:
        cases: Where the slices come from.
        augment: What happens to each; knows the size of the crops.
        view: How the network sees cases: the grid on which slices are drawn, and k.
        balance: Share of the samples that are drawn around a pixel of a class, each class of a case as often as the
            others.
        seed: Of everything random.
    """

    def __init__(
        self, cases: Sequence[StoredCase], augment: Augment, view: View, balance: float = 0.0, seed: int = 0
    ) -> None:
        self.cases = list(cases)
        self.augment = augment
        self.context = view.context
        self.balance = balance
        self.seed = seed
        self.grids = [view.grid((s, h, w), case.spacing_mm) for case in cases for s, _, h, w in [case.shape]]
        self.first = np.cumsum([0, *map(self._samples, self.grids)])  # sample of each case, among all

    def _samples(self, grid: Grid) -> int:
        slices, height, width = grid
        if slices > 1 or self.augment.crop is None:
            return slices
        return max(1, round(height * width / (self.augment.crop[0] * self.augment.crop[1])))

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The sample of an index, or of an epoch and an index."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = np.random.default_rng((self.seed, epoch, index))
        k = int(np.searchsorted(self.first, index, side="right")) - 1
        case, grid = self.cases[k], self.grids[k]
        position, around = (index - int(self.first[k])) % grid[0], None
        if rng.random() < self.balance and len(places := case.places()):
            chosen = places[places[:, 0] == rng.choice(np.unique(places[:, 0]))]
            _, stored, *around = chosen[rng.integers(len(chosen))].tolist()
            position = min(nearest_slice(stored, case.shape[0], grid[0]), grid[0] - 1)
        crop, (slices, *size) = self.augment.crop, grid
        if crop is None or case.shape[0] > 1:
            read, chosen = whole(case.shape[2:]), whole(size)
            if crop is not None:
                around = around and [
                    int((n + 0.5) * s / m) for n, s, m in zip(around, size, case.shape[2:], strict=True)
                ]
                chosen = draw_box(size, crop, around, rng)
        else:  # what a sliding window over the scene would be, by itself brought to the network's grid
            part, seen = seen_by_network(case.shape[2:], size, crop)
            taken = draw_box(case.shape[2:], part, around, rng)
            read = self.augment.needed(taken).inside(case.shape[2:])
            size = [round(n * s / m) for n, s, m in zip(read.sides, seen, part, strict=True)]
            corner = [round((t - r) * s / m) for t, r, s, m in zip(taken.corner, read.corner, seen, part, strict=True)]
            chosen = Box(corner[0], corner[1], *seen)
        image, labels = self._read(case, position, slices, read, (size[0], size[1]))
        image, labels = self.augment(image, labels, chosen.framed(crop or size), int(rng.integers(2**31)))
        return {"image": torch.from_numpy(image), "mask": torch.from_numpy(labels).long(), "name": case.name}

    def _read(
        self, case: StoredCase, position: int, slices: int, box: Box, size: tuple[int, int]
    ) -> tuple[Array, Array]:
        """Part of a slice with its neighbours, and of its mask, at the size in which the network sees it."""
        image, mask = case.image()[:, :, box.rows, box.columns], case.mask()[:, box.rows, box.columns]
        piece = slices_at(image, [position], self.context, slices).astype(np.float32)
        piece = standardised(piece, case.moments, self.context)
        labels = np.array(mask[nearest_slice(position, slices, case.shape[0])])[None]
        images = resize_images(fill_gaps(torch.from_numpy(piece)), size)
        return images[0].numpy(), resize_masks(torch.from_numpy(labels), size)[0].numpy()


class CaseDataset(Dataset[dict[str, Any]]):
    """Whole cases, image and mask as they are stored; memory-mapped, so they may exceed memory.

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

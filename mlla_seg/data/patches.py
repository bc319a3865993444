"""Dataset of training patches of volumes, for networks of three axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mlla_seg.data.boxes import Box, draw_box
from mlla_seg.data.dataset import draw_place, located, read_slices
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.resampling import nearest_pixels, resize_part, stored_part
from mlla_seg.data.slices import Grid, View, slices_at
from mlla_seg.data.store.case import StoredCase
from mlla_seg.data.volume_augment import VolumeAugment


class PatchDataset(Dataset[dict[str, Any]]):
    """Normalised and augmented training patches, as the encoder receives them.

    Samples are ``{"image": (C, D, H, W) float32, "mask": (D, H, W) int64, "name": str}``. An epoch has as many samples
    of a volume as patches fit into it, at least one. A volume smaller than the patch is centred in it. A sample depends
    only on seed, epoch and index, not on the process that draws it.

    Args:
        cases: Source of the patches.
        augment: Augmentation of each sample.
        view: How the network sees cases: the grid on which patches are drawn, and their size.
        balance: Fraction of samples that contain a drawn voxel of a class, with all classes of a case equally likely.
        seed: Random seed.
    """

    def __init__(
        self, cases: Sequence[StoredCase], augment: VolumeAugment, view: View, balance: float = 0.0, seed: int = 0
    ) -> None:
        assert view.axes == 3 and view.patch_size is not None
        self.cases = list(cases)
        self.augment = augment
        self.crop = tuple(view.patch_size)
        self.balance = balance
        self.seed = seed
        self.grids = [view.grid((s, h, w), case.spacing_mm) for case in cases for s, _, h, w in [case.shape]]
        self.first = np.cumsum([0, *map(self._samples, self.grids)])  # index of each case's first sample

    def _samples(self, grid: Grid) -> int:
        return max(1, round(math.prod(grid) / math.prod(self.crop)))

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return the sample of an index, or of an ``(epoch, index)`` pair."""
        k, _, rng = located(key, self.first, self.seed)
        case, grid, around = self.cases[k], self.grids[k], None
        if stored := draw_place(case, self.balance, rng):
            shape = (case.shape[0], *case.shape[2:])
            around = [min(int((n + 0.5) * g / m), g - 1) for n, g, m in zip(stored, grid, shape, strict=True)]
        box, seed = draw_box(grid, self.crop, around, rng).framed(self.crop), int(rng.integers(2**31))
        read = self.augment.needed(box, seed).inside(grid)
        image, labels = read_patch(case, grid, read)
        here = Box(tuple(n - first for n, first in zip(box.corner, read.corner, strict=True)), box.sides)
        image, labels = self.augment(image, labels, here, seed)
        return {"image": torch.from_numpy(image), "mask": torch.from_numpy(labels).long(), "name": case.name}


def read_patch(case: StoredCase, grid: Grid, box: Box) -> tuple[Array, Array]:
    """Return the image ``(C, D, H, W)`` float32 of a part of a volume, and its class indices ``(D, H, W)``.

    Only the voxels on which the part depends are read, but whole slices if some of these have no data.

    Args:
        case: The volume.
        grid: Slices, height and width to which it is resampled.
        box: Part inside the grid.
    """
    slices = range(*box.parts[0].indices(grid[0]))
    stored, size, wanted = (case.shape[2], case.shape[3]), (grid[1], grid[2]), box.parts[1:]
    parts = [stored_part(*of_axis) for of_axis in zip(wanted, size, stored, strict=True)]
    read = Box(tuple(part.start for part in parts), tuple(part.stop - part.start for part in parts))
    if box.sides[-1] == 1 or _has_gaps(case, slices, grid[0], read):  # gaps are filled by the mean of their slice
        images, masks = (part[..., box.rows, box.columns] for part in read_slices(case, slices, grid[0], size))
    else:
        images, masks = read_slices(case, slices, grid[0], (read.sides[0], read.sides[1]), box=read)
        images = resize_part(images, parts, stored, size, wanted)
        rows, columns = (nearest_pixels(*of_axis) for of_axis in zip(wanted, size, stored, strict=True))
        masks = masks[:, (rows - parts[0].start)[:, None], columns - parts[1].start]
    return images.swapaxes(0, 1).numpy(), masks.numpy()


def _has_gaps(case: StoredCase, slices: Sequence[int], count: int, within: Box) -> bool:
    """Return whether pixels of a part of some slices have no data."""
    image = case.image()
    if image.dtype.kind != "f":
        return False
    return bool(np.isnan(slices_at(image[:, :, within.rows, within.columns], slices, slices=count)).any())

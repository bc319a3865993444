"""Datasets on top of the store: slices for training, whole cases for evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from mlla_seg.data.boxes import Box, draw_box, whole
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.resampling import fill_gaps, resize_images, resize_masks
from mlla_seg.data.slice_augment import SliceAugment
from mlla_seg.data.slices import Grid, View, nearest_slice, seen_by_network, slices_at, standardised
from mlla_seg.data.store.case import StoredCase


class SliceDataset(Dataset[dict[str, Any]]):
    """Normalised and augmented training samples, as the encoder receives them.

    Samples are ``{"image": ((2 k + 1) C, H, W) float32, "mask": (H, W) int64, "name": str}``, with k neighbouring
    slices on each side. An epoch contains each slice of a volume once. A scene, a case with a single slice, has as many
    samples as crops fit into its area, and only the pixels of a sample are read from the file. A sample depends only on
    seed, epoch and index, not on the process that draws it.

    Args:
        cases: Source of the slices.
        augment: Augmentation of each sample; defines the crop size.
        view: How the network sees cases: the grid on which slices are drawn, and k.
        balance: Fraction of samples drawn around a pixel of a class, with all classes of a case equally likely.
        seed: Random seed.
    """

    labelled = True
    """Whether masks hold classes; otherwise they only tell where there are data, see :func:`read_slices`."""

    def __init__(
        self, cases: Sequence[StoredCase], augment: SliceAugment, view: View, balance: float = 0.0, seed: int = 0
    ) -> None:
        self.cases = list(cases)
        self.augment = augment
        self.context = view.context
        self.balance = balance
        self.seed = seed
        self.grids = [view.grid((s, h, w), case.spacing_mm) for case in cases for s, _, h, w in [case.shape]]
        self.boxes = [case.part.boxes(case.shape[2:]) if case.part else [] for case in cases]
        self.first = np.cumsum([0, *map(self._samples, self.grids, self.boxes)])  # index of each case's first sample

    def _samples(self, grid: Grid, boxes: Sequence[Box]) -> int:
        slices, height, width = grid
        if slices > 1 or self.augment.crop is None:
            return slices
        area = sum(math.prod(box.sides) for box in boxes) or height * width
        return max(1, round(area / (self.augment.crop[0] * self.augment.crop[1])))

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return the sample of an index, or of an ``(epoch, index)`` pair."""
        k, number, rng = located(key, self.first, self.seed)
        case, grid = self.cases[k], self.grids[k]
        position, around = number % grid[0], None
        if place := draw_place(case, self.balance, rng):
            stored, *around = place
            position = min(nearest_slice(stored, case.shape[0], grid[0]), grid[0] - 1)
        elif boxes := self.boxes[k]:  # the other blocks of the scene hold nothing to learn
            box = boxes[rng.integers(len(boxes))]
            around = [int(first + rng.integers(count)) for first, count in zip(box.corner, box.sides, strict=True)]
        crop, (slices, *size) = self.augment.crop, grid
        if crop is None or case.shape[0] > 1:
            read, chosen = whole(case.shape[2:]), whole(size)
            if crop is not None:
                around = around and [
                    int((n + 0.5) * s / m) for n, s, m in zip(around, size, case.shape[2:], strict=True)
                ]
                chosen = draw_box(size, crop, around, rng)
        else:  # like one window of a sliding window over the scene, resized by itself
            part, seen = seen_by_network(case.shape[2:], size, crop)
            taken = draw_box(case.shape[2:], part, around, rng)
            read = self.augment.needed(taken).inside(case.shape[2:])
            size = [round(n * s / m) for n, s, m in zip(read.sides, seen, part, strict=True)]
            corner = [round((t - r) * s / m) for t, r, s, m in zip(taken.corner, read.corner, seen, part, strict=True)]
            chosen = Box(tuple(corner), seen)
        how = (self.context, read, self.labelled)
        images, masks = read_slices(case, [position], slices, (size[0], size[1]), *how)
        image, labels = self.augment(
            images[0].numpy(), masks[0].numpy(), chosen.framed(crop or size), int(rng.integers(2**31))
        )
        return {"image": torch.from_numpy(image), "mask": torch.from_numpy(labels).long(), "name": case.name}


def located(key: int | tuple[int, int], first: npt.NDArray[Any], seed: int) -> tuple[int, int, np.random.Generator]:
    """Return the case of a sample, the number of the sample within the case, and its random generator.

    Args:
        key: Index of the sample, or ``(epoch, index)``.
        first: Index of each case's first sample, and the number of all samples.
        seed: Random seed.
    """
    epoch, index = key if isinstance(key, tuple) else (0, key)
    k = int(np.searchsorted(first, index, side="right")) - 1
    return k, index - int(first[k]), np.random.default_rng((seed, epoch, index))


def draw_place(case: StoredCase, balance: float, rng: np.random.Generator) -> list[int] | None:
    """Draw slice, row and column of a pixel of a class for a fraction of the samples, with all classes equally likely.

    Args:
        case: The case.
        balance: The fraction.
        rng: Random generator.

    Returns:
        The place as stored; None for all other samples, and in cases without classes.
    """
    if rng.random() >= balance or not len(places := case.places()):
        return None
    chosen = places[places[:, 0] == rng.choice(np.unique(places[:, 0]))]
    place: list[int] = chosen[rng.integers(len(chosen)), 1:].tolist()
    return place


def read_slices(
    case: StoredCase,
    positions: Sequence[int],
    slices: int,
    size: tuple[int, int],
    context: int = 0,
    box: Box | None = None,
    labelled: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read slices of a case and their masks as the network sees them, in raw units unless the card standardises cases.

    Args:
        case: The case.
        positions: The N slices, as indices among ``slices``.
        slices: Number of slices to which the case is resampled.
        size: Height and width to which they are resized.
        context: Neighbouring slices on each side, as additional channels.
        box: Rows and columns of the stored slices to read; by default all.
        labelled: Read the masks; otherwise pixels with data are of class 0, and all others ignored.

    Returns:
        Images ``(N, (2 k + 1) C, h, w)`` float32, and class indices ``(N, h, w)``.
    """
    box = box or whole(case.shape[2:])
    image, mask = case.image()[:, :, box.rows, box.columns], case.mask()[:, box.rows, box.columns]
    pieces = slices_at(image, positions, context, slices).astype(np.float32)
    pieces = standardised(pieces, case.moments, context)
    if labelled:
        labels = np.array(mask[[nearest_slice(position, slices, case.shape[0]) for position in positions]])
    else:
        labels = np.where(np.isnan(pieces).any(axis=1), IGNORE_INDEX, 0).astype(np.uint8)
    images = resize_images(fill_gaps(torch.from_numpy(pieces)), size)
    return images, resize_masks(torch.from_numpy(labels), size)


class CaseDataset(Dataset[dict[str, Any]]):
    """Whole cases as stored; memory-mapped, may exceed memory.

    Items are ``{"image": (S, C, H, W), "mask": (S, H, W) uint8, "index": int, "name": str, "spacing_mm": tuple or
    None}``; the image is NaN where there is no data.
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

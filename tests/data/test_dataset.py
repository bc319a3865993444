"""Datasets over the store: every slice once, whole cases, and another augmentation in each epoch and worker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mlla_seg.data.dataset import CaseDataset, SliceDataset
from mlla_seg.data.store import StoredCase
from mlla_seg.data.transforms import Augment

SLICES = (3, 1, 4)
TOTAL = sum(SLICES)


@pytest.fixture
def cases(tmp_path):
    """Cases whose images hold the number of the slice, counted over all cases, and whose masks are noise."""
    cases, first = [], 0
    for k, slices in enumerate(SLICES):
        numbers = np.arange(first, first + slices, dtype=np.int16)
        image = np.broadcast_to(numbers[:, None, None, None], (slices, 2, 12, 12)) + np.array(
            [[[0]], [[100]]], np.int16
        )
        mask = np.random.default_rng(k).integers(0, 4, (slices, 12, 12), dtype=np.uint8)
        np.save(tmp_path / f"case{k}.image.npy", image)
        np.save(tmp_path / f"case{k}.mask.npy", mask)
        cases.append(StoredCase(f"case{k}", tmp_path / f"case{k}", image.shape, (0,) * 4, None))
        first += slices
    return cases


def numbers_of(images):
    return [int(image[0].mean().round()) for image in images]


def test_every_slice_comes_once_and_in_order(cases):
    dataset = SliceDataset(cases, Augment("none", None), {})
    assert len(dataset) == TOTAL
    samples = [dataset[index] for index in range(TOTAL)]
    assert numbers_of(sample["image"] for sample in samples) == list(range(TOTAL))
    masks = np.concatenate([case.mask() for case in cases])
    for sample, mask in zip(samples, masks, strict=True):
        assert sample["image"].shape == (2, 12, 12)
        assert sample["image"].dtype == torch.float32
        assert sample["mask"].dtype == torch.int64
        np.testing.assert_array_equal(sample["mask"], mask)
        np.testing.assert_array_equal(sample["image"][1], sample["image"][0] + 100)


def test_neighbours_are_of_the_same_case(cases):
    dataset = SliceDataset(cases, Augment("none", None), {"context": 1})
    seen = [dataset[index]["image"][::2, 0, 0].tolist() for index in range(TOTAL)]
    assert seen == [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 3], [4, 4, 5], [4, 5, 6], [5, 6, 7], [6, 7, 7]]
    assert dataset[1]["image"][:, 0, 0].tolist() == [0, 100, 1, 101, 2, 102]


def test_samples_are_resized_and_cropped(cases):
    sample = SliceDataset(cases, Augment("anatomy", (16, 16)), {"resize": (24, 24)})[0]
    assert sample["image"].shape == (2, 16, 16)
    assert sample["mask"].shape == (16, 16)


def test_slices_are_drawn_on_the_grid_of_the_target_spacing(cases):
    spaced = [replace(case, spacing_mm=(4.0, 1.0, 2.0)) for case in cases]
    dataset = SliceDataset(spaced, Augment("none", None), {"spacing_mm": [2.0, 2.0, 1.0], "context": 1})
    assert len(dataset) == 2 * (3 + 4) + 1  # a single slice stays one
    sample = dataset[1]  # a quarter of the way from slice 0 to slice 1
    assert sample["image"].shape == (6, 6, 24)
    assert sample["image"][:, 3, 12].tolist() == pytest.approx([0, 100, 0.25, 100.25, 0.75, 100.75])
    masks = [cases[0].mask()[k] for k in (0, 0, 1, 1, 2, 2)]
    for index, mask in enumerate(masks):
        assert dataset[index]["mask"].shape == (6, 24)
        np.testing.assert_array_equal(dataset[index]["mask"][:, ::2], mask[1::2])


def test_store_is_not_changed_by_augmentation(cases):
    before = np.array(cases[0].mask())
    dataset = SliceDataset(cases, Augment("aerial", (20, 20), intensity=1), {})
    for index in range(TOTAL):
        dataset[index]["mask"].zero_()
    np.testing.assert_array_equal(cases[0].mask(), before)


def test_seed_of_torch_decides_the_augmentation(cases):
    dataset = SliceDataset(cases, Augment("anatomy", None), {})
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(torch.stack([dataset[index]["mask"] for index in range(TOTAL)]))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_whole_cases(cases):
    dataset = CaseDataset(cases)
    assert len(dataset) == 3
    for index, case in enumerate(cases):
        sample = dataset[index]
        assert set(sample) == {"image", "mask", "index", "name", "spacing_mm"}
        assert (sample["index"], sample["name"]) == (index, f"case{index}")
        assert (sample["image"].dtype, sample["mask"].dtype) == (torch.int16, torch.uint8)
        np.testing.assert_array_equal(sample["image"], case.image())
        np.testing.assert_array_equal(sample["mask"], case.mask())


def test_workers_give_every_slice_once_and_augment_anew_in_each_epoch(cases):
    dataset = SliceDataset([cases[0]] * 4, Augment("anatomy", None), {})  # slices 0, 1, 2 four times over
    loader = DataLoader(dataset, batch_size=3, num_workers=2, persistent_workers=True)
    epochs = [list(loader) for _ in range(2)]
    for batches in epochs:
        assert numbers_of(torch.cat([batch["image"] for batch in batches])) == [0, 1, 2] * 4
    masks = torch.cat([batch["mask"] for batches in epochs for batch in batches]).reshape(8, 3, 12, 12)
    assert len({mask.numpy().tobytes() for mask in masks[:, 0]}) > 5  # nearly each of its 8 visits was another

"""Datasets over the store: every slice once, whole cases, and samples that depend only on seed, epoch and index."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mlla_seg.data.batches import EpochSampler
from mlla_seg.data.dataset import CaseDataset, SliceDataset
from mlla_seg.data.resampling import resize_images
from mlla_seg.data.sampling import class_places
from mlla_seg.data.slice_augment import SliceAugment
from mlla_seg.data.slices import View
from mlla_seg.data.store.case import StoredCase

SLICES = (3, 1, 4)
TOTAL = sum(SLICES)


@pytest.fixture
def cases(tmp_path):
    """Cases whose images hold the slice number, counted over all cases, and whose masks are noise."""
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
    dataset = SliceDataset(cases, SliceAugment("none", None), View())
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
    dataset = SliceDataset(cases, SliceAugment("none", None), View(context=1))
    seen = [dataset[index]["image"][::2, 0, 0].tolist() for index in range(TOTAL)]
    assert seen == [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 3], [4, 4, 5], [4, 5, 6], [5, 6, 7], [6, 7, 7]]
    assert dataset[1]["image"][:, 0, 0].tolist() == [0, 100, 1, 101, 2, 102]


def test_samples_are_resized_and_cropped(cases):
    sample = SliceDataset(cases, SliceAugment("anatomy", (16, 16)), View(resize=(24, 24)))[0]
    assert sample["image"].shape == (2, 16, 16)
    assert sample["mask"].shape == (16, 16)


def test_slices_are_drawn_on_the_grid_of_the_target_spacing(cases):
    spaced = [replace(case, spacing_mm=(4.0, 1.0, 2.0)) for case in cases]
    dataset = SliceDataset(spaced, SliceAugment("none", None), View(spacing_mm=(2.0, 2.0, 1.0), context=1))
    assert len(dataset) == 2 * (3 + 4) + 1  # a single slice stays one
    sample = dataset[1]  # a quarter of the way from slice 0 to slice 1
    assert sample["image"].shape == (6, 6, 24)
    assert sample["image"][:, 3, 12].tolist() == pytest.approx([0, 100, 0.25, 100.25, 0.75, 100.75])
    masks = [cases[0].mask()[k] for k in (0, 0, 1, 1, 2, 2)]
    for index, mask in enumerate(masks):
        assert dataset[index]["mask"].shape == (6, 24)
        np.testing.assert_array_equal(dataset[index]["mask"][:, ::2], mask[1::2])


@pytest.fixture
def scene(tmp_path):
    """A scene of 40 x 60 whose bands are its row and column indices, with a rare class in one corner."""
    rows, columns = np.mgrid[:40, :60].astype(np.float32)
    mask = np.zeros((1, 40, 60), np.uint8)
    mask[0, 35:37, 55:57], mask[0, 0] = 1, 255
    np.save(tmp_path / "scene.image.npy", np.stack([rows, columns])[None])
    np.save(tmp_path / "scene.mask.npy", mask)
    np.save(tmp_path / "scene.places.npy", class_places(mask, np.bincount(mask.ravel(), minlength=2)[:2]))
    return StoredCase("scene", tmp_path / "scene", (1, 2, 40, 60), (0, 0), None)


def test_scene_has_a_sample_for_every_crop_of_its_area(scene):
    dataset = SliceDataset([scene, scene], SliceAugment("none", (20, 10)), View())
    assert len(dataset) == 2 * (40 * 60) // (20 * 10)
    corners = set()
    for index in range(len(dataset)):
        sample = dataset[index]
        top, left = (int(n) for n in sample["image"][:, 0, 0])
        assert torch.equal(sample["image"][0, :, 0], torch.arange(top, top + 20.0))
        assert torch.equal(sample["image"][1, 0], torch.arange(left, left + 10.0))
        np.testing.assert_array_equal(sample["mask"], scene.mask()[0, top : top + 20, left : left + 10])
        corners.add((top, left))
    assert len(corners) > 15
    assert len(SliceDataset([scene], SliceAugment("none", (100, 100)), View())) == 1
    assert len(SliceDataset([scene], SliceAugment("none", None), View())) == 1


def test_only_the_crop_is_read(scene, monkeypatch):
    seen = []

    class Watched(np.ndarray):
        def __getitem__(self, key):
            found = super().__getitem__(key)
            seen.append(found.shape)
            return found

    monkeypatch.setattr(StoredCase, "image", lambda self: np.load(f"{self.stem}.image.npy").view(Watched))
    SliceDataset([scene], SliceAugment("none", (20, 10)), View())[0]
    assert seen[0] == (1, 2, 20, 10)


def test_balanced_samples_show_rare_classes_as_often_as_others(scene):
    torch.manual_seed(0)
    plain, balanced = (
        SliceDataset([scene] * 20, SliceAugment("none", (20, 10)), View(), balance) for balance in (0.0, 1.0)
    )
    rare = [sum((1 in sample["mask"]) for sample in (d[i] for i in range(len(d)))) / len(d) for d in (plain, balanced)]
    assert rare[0] < 0.15
    assert 0.45 < rare[1] < 0.65
    sample = balanced[0]
    assert sample["image"].shape == (2, 20, 10)


def test_balanced_samples_of_a_volume_choose_its_slices(cases, tmp_path):
    mask = np.zeros((4, 12, 12), np.uint8)
    mask[2, 5, 5] = 1
    np.save(tmp_path / "case2.mask.npy", mask)
    np.save(tmp_path / "case2.places.npy", class_places(mask, np.bincount(mask.ravel(), minlength=2)[:2]))
    torch.manual_seed(0)
    dataset = SliceDataset([cases[2]] * 100, SliceAugment("none", (8, 8)), View(), balance=1)
    shown = [int(sample["mask"].sum()) for sample in (dataset[i] for i in range(len(dataset)))]
    assert (
        0.5 < np.mean(shown) < 0.75
    )  # half of them, and of the others those in its slice, are around the one pixel of the rare class


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_balance_is_a_share_of_the_samples(scene, balance):
    dataset = SliceDataset([scene] * 30, SliceAugment("none", (20, 10)), View(), balance)
    rare = np.mean([1 in dataset[index]["mask"] for index in range(len(dataset))])
    assert rare == pytest.approx(0.07 + balance / 2, abs=0.08)  # half of the share is around the other class


@pytest.mark.parametrize("view", [View(resize=2.0), View(resize=(24, 36)), View(spacing_mm=(None, 0.5, 0.5))])
def test_balanced_crops_are_around_their_pixel_where_slices_are_resized(tmp_path, view):
    mask = np.zeros((4, 12, 18), np.uint8)
    mask[2, 1, 16] = 1
    np.save(tmp_path / "case.image.npy", np.zeros((4, 1, 12, 18), np.float32))
    np.save(tmp_path / "case.mask.npy", mask)
    np.save(tmp_path / "case.places.npy", class_places(mask, np.bincount(mask.ravel(), minlength=2)[:2]))
    case = StoredCase("case", tmp_path / "case", (4, 1, 12, 18), (0, 0), (1.0, 1.0, 1.0))
    dataset = SliceDataset([case] * 50, SliceAugment("none", (6, 6)), view, balance=1)
    shown = np.mean([1 in dataset[index]["mask"] for index in range(len(dataset))])
    assert 0.4 < shown < 0.7  # half of the samples, and a few by chance


def test_scene_is_resized_by_windows_as_in_prediction(scene):
    dataset = SliceDataset([scene], SliceAugment("none", (20, 20)), View(resize=0.5))
    sample = dataset[0]
    top, left = (round(float(n)) for n in sample["image"][:, 0, 0] - 0.5)
    part = torch.from_numpy(scene.image()[:, :, top : top + 40, left : left + 40])
    assert part.shape[-2:] == (40, 40)
    torch.testing.assert_close(sample["image"], resize_images(part, (20, 20))[0])


def test_store_is_not_changed_by_augmentation(cases):
    before = np.array(cases[0].mask())
    dataset = SliceDataset(cases, SliceAugment("aerial", (20, 20), intensity=1), View())
    for index in range(TOTAL):
        dataset[index]["mask"].zero_()
    np.testing.assert_array_equal(cases[0].mask(), before)


def test_seed_epoch_and_index_alone_decide_a_sample(cases):
    how = SliceAugment("anatomy", (8, 8), intensity=1)
    keys = [(epoch, index) for epoch in range(2) for index in range(TOTAL)]
    first, again, other = (SliceDataset(cases, how, View(), seed=seed) for seed in (0, 0, 1))
    samples = {key: first[key] for key in keys}
    torch.manual_seed(7)
    for key in reversed(keys):
        for part in ("image", "mask"):
            assert torch.equal(again[key][part], samples[key][part])
    assert len({sample["image"].numpy().tobytes() for sample in samples.values()}) == len(keys)
    assert not torch.equal(other[keys[0]]["image"], samples[keys[0]]["image"])
    assert samples[1, 0]["name"] == "case0"


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


def epochs_of(dataset, workers, world=1):
    """The batches of two epochs, over all processes."""
    ranks = []
    for rank in range(world):
        sampler = EpochSampler(dataset, world, rank, seed=0)
        loader = DataLoader(
            dataset, batch_size=4 // world, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
        )
        batches = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            batches += list(loader)
        ranks.append(batches)
    return [torch.stack([batch["image"] for batch in step], dim=1).flatten(0, 1) for step in zip(*ranks, strict=True)]


def test_batches_are_the_same_for_any_number_of_workers_and_processes(cases):
    dataset = SliceDataset([cases[0]] * 4, SliceAugment("anatomy", (8, 8), intensity=1), View())
    expected = epochs_of(dataset, 0)
    assert len(expected) == 2 * 3
    assert not torch.equal(expected[0], expected[3])
    for workers, world in ((2, 1), (0, 2)):
        for batch, same in zip(expected, epochs_of(dataset, workers, world), strict=True):
            assert torch.equal(batch, same)

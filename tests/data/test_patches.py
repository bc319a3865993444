"""Patches of volumes: what the network sees in prediction, drawn by seed, epoch and index, moved without a tear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mlla_seg.data.boxes import Box, whole
from mlla_seg.data.dataset import read_slices
from mlla_seg.data.dataspec import Normalisation
from mlla_seg.data.patches import PatchDataset, read_patch
from mlla_seg.data.sampling import class_places
from mlla_seg.data.slices import View
from mlla_seg.data.store.case import StoredCase
from mlla_seg.data.volume_augment import VolumeAugment
from mlla_seg.errors import InputError
from mlla_seg.inference.cases import predict_case

SHAPE, SPACING = (9, 14, 12), (2.0, 1.0, 1.5)


@pytest.fixture
def case(tmp_path):
    rng = np.random.default_rng(0)
    image, mask = rng.normal(40, 9, (9, 2, 14, 12)).astype(np.float32), np.zeros(SHAPE, np.uint8)
    image[3, 0, 2] = np.nan
    mask[7, 12:, 10], mask[2:5, 3:6] = 2, 1
    np.save(tmp_path / "case.image.npy", image)
    np.save(tmp_path / "case.mask.npy", mask)
    np.save(tmp_path / "case.places.npy", class_places(mask, np.bincount(mask.ravel(), minlength=3).tolist()))
    return StoredCase("case", tmp_path / "case", image.shape, (0, 0, 0), SPACING)


class Watching(nn.Module):
    """A network that keeps what it sees."""

    def forward(self, x):
        self.seen = x[0]
        return torch.cat((x[:, :1], -x[:, :1]), dim=1)


@pytest.mark.parametrize("spacing", [None, (1.0, 2.0, 1.5)])
def test_a_sample_is_what_the_network_sees_in_prediction(case, spacing):
    view, watching = View(spacing, patch_size=(40, 40, 40)), Watching()
    predict_case(watching, torch.from_numpy(case.image()), view, SPACING)
    sample = PatchDataset([case], VolumeAugment("none"), view)[0]
    first = [(40 - n) // 2 for n in watching.seen.shape[1:]]  # the network pads it itself
    inside = Box(tuple(first), tuple(watching.seen.shape[1:])).parts
    torch.testing.assert_close(sample["image"][(slice(None), *inside)], watching.seen, rtol=0, atol=0)
    own = torch.full((40, 40, 40), 255)
    own[inside] = sample["mask"][inside]
    assert torch.equal(sample["mask"], own)
    if spacing is None:
        np.testing.assert_array_equal(sample["mask"][inside], case.mask())
    assert sample["mask"][inside].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.5), (1.0, 2.0, 1.5)])
@pytest.mark.parametrize("gaps", [True, False])
def test_parts_that_are_read_alone_are_those_of_whole_slices(case, spacing, gaps):
    if not gaps:
        np.save(f"{case.stem}.image.npy", np.nan_to_num(case.image()).astype(np.int16))
    grid = View(spacing, patch_size=(4, 5, 6)).grid(SHAPE, SPACING)
    images, masks = read_slices(case, range(grid[0]), grid[0], grid[1:])
    for corner in ((0, 0, 0), (2, 1, 4), (grid[0] - 4, 2, 6)):
        box = Box(corner, (4, 5, 6))
        image, labels = read_patch(case, grid, box)
        np.testing.assert_array_equal(image, images.swapaxes(0, 1).numpy()[(slice(None), *box.parts)])
        np.testing.assert_array_equal(labels, masks.numpy()[box.parts])


def test_of_resampled_slices_only_what_a_part_depends_on_is_read(tmp_path):
    rng = np.random.default_rng(0)
    image, mask = rng.normal(40, 9, (5, 1, 90, 70)).astype(np.float32), rng.integers(0, 3, (5, 90, 70), dtype=np.uint8)
    case, spacing = StoredCase("case", tmp_path / "case", image.shape, (0, 0, 0), (2.0, 1.0, 1.0)), (1.5, 1.2, 0.7)
    np.save(tmp_path / "case.image.npy", image)
    np.save(tmp_path / "case.mask.npy", mask)
    grid, box = View(spacing, patch_size=(3, 9, 12)).grid((5, 90, 70), case.spacing_mm), Box((2, 33, 50), (3, 9, 12))
    images, masks = read_slices(case, range(grid[0]), grid[0], grid[1:])
    expected = images.swapaxes(0, 1).numpy()[(slice(None), *box.parts)], masks.numpy()[box.parts]
    image[:, :, :30] = image[:, :, 60:] = np.nan  # far away: gaps there would change the means that fill gaps
    np.save(tmp_path / "case.image.npy", image)
    for found, of_whole in zip(read_patch(case, grid, box), expected, strict=True):
        np.testing.assert_array_equal(found, of_whole)


def test_samples_depend_only_on_seed_epoch_and_index(case):
    view = View(patch_size=(6, 8, 8))
    dataset, again, other = (
        PatchDataset([case, case], VolumeAugment("anatomy", SPACING, intensity=1), view, 0.5, seed)
        for seed in (0, 0, 1)
    )
    assert len(dataset) == 2 * round(9 * 14 * 12 / (6 * 8 * 8))
    keys = [(0, 0), (0, 5), (1, 0)]
    drawn = [dataset[key]["image"] for key in keys]
    for key, image in zip(keys, drawn, strict=True):
        assert torch.equal(again[key]["image"], image)
        assert not torch.equal(other[key]["image"], image)
    assert not torch.equal(drawn[0], drawn[2])
    assert all(sample.shape == (2, 6, 8, 8) and sample.isfinite().all() for sample in drawn)


@pytest.mark.parametrize("spacing", [None, (1.0, 2.0, 1.0)])
def test_balanced_patches_contain_a_voxel_of_a_class(case, spacing):
    view = View(spacing, patch_size=(4, 4, 4))
    shares = []
    for balance in (0.0, 1.0):
        dataset = PatchDataset([case] * 10, VolumeAugment("none"), view, balance)
        shares.append(np.mean([2 in dataset[index]["mask"] for index in range(0, len(dataset), 3)]))
    assert shares[0] < 0.1
    assert 0.25 < shares[1] < 0.5  # a third is drawn around each class


def ramps(*shape):
    """A volume that holds the place of each voxel in its three channels."""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float32)


@pytest.mark.parametrize(("spacing", "free"), [(None, False), ((3.0, 1.0, 1.0), False), ((1.5, 1.0, 0.8), True)])
def test_maps_keep_angles_and_are_rotations_in_millimetres(spacing, free):
    augment, box = VolumeAugment("anatomy", spacing), Box((30, 30, 30), (12, 16, 20))
    image, mask, through = ramps(72, 76, 80), np.zeros((72, 76, 80), np.uint8), 0
    scale = np.array(spacing or (1.0, 1.0, 1.0))[:, None]
    for seed in range(12):
        moved, _ = augment(image, mask, box, seed)
        steps = [np.diff(moved, axis=axis + 1).reshape(3, -1) for axis in range(3)]
        assert max(np.ptp(step, axis=1).max() for step in steps) < 1e-3  # one affine map, nothing replicated
        jacobian = np.stack([step.mean(axis=1) for step in steps], axis=1) * scale / scale.T
        product = jacobian.T @ jacobian
        np.testing.assert_allclose(product, np.eye(3) * product[0, 0], atol=2e-3)
        assert 1 / 1.4 - 1e-3 <= np.sqrt(product[0, 0]) <= 1 / 0.7 + 1e-3
        centre = moved.reshape(3, -1).mean(axis=1) - (np.array(box.corner) + (np.array(box.sides) - 1) / 2)
        assert (np.abs(centre) <= 0.05 * np.array(box.sides) + 1e-3).all()
        through += not np.allclose(jacobian[0, 1:], 0, atol=1e-4)
    assert through > 6 if free else through == 0


def test_image_and_mask_move_together():
    augment = VolumeAugment("anatomy", (1.0, 1.0, 1.0), mirror=["slices", "columns"])
    blocks = np.random.default_rng(0).integers(0, 3, (8, 8, 8), dtype=np.uint8)
    mask = blocks.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    changed = 0
    for seed in range(5):
        moved, labels = augment(mask[None].astype(np.float32), mask, Box((20, 20, 20), (24, 24, 24)), seed)
        assert (np.round(moved[0]) == labels).mean() > 0.9
        changed += not np.array_equal(labels, mask[20:44, 20:44, 20:44])
    assert changed >= 4


def test_beyond_the_volume_the_border_repeats_and_is_ignored():
    image, mask = np.full((1, 6, 8, 8), 3.0, np.float32), np.ones((6, 8, 8), np.uint8)
    for seed in range(6):
        moved, labels = VolumeAugment("anatomy", (1, 1, 1))(image, mask, whole((6, 8, 8)).framed((12, 12, 12)), seed)
        np.testing.assert_allclose(moved, 3, rtol=1e-6)
        assert set(np.unique(labels)) == {1, 255}
        assert labels[6, 6, 6] == 1


@pytest.mark.parametrize("axis", ["slices", "rows", "columns"])
def test_half_of_the_samples_are_mirrored(axis):
    augment, image = VolumeAugment("none", mirror=[axis]), ramps(4, 6, 8)
    turned = np.flip(image, 1 + ["slices", "rows", "columns"].index(axis))
    found = [augment(image, np.zeros((4, 6, 8), np.uint8), whole((4, 6, 8)), seed)[0] for seed in range(40)]
    mirrored = [bool(np.allclose(sample, turned, atol=1e-4)) for sample in found]
    assert 10 <= sum(mirrored) <= 30
    assert all(np.array_equal(sample, image) for sample, was in zip(found, mirrored, strict=True) if not was)


@pytest.mark.parametrize("how", [{"mean": 3.0, "std": 2.0, "window": (-1.0, 5.0)}, {"per_image": True}])
def test_normalised_over_own_voxels(how):
    image, mask = ramps(4, 6, 8)[1:2], np.zeros((4, 6, 8), np.uint8)
    augment = VolumeAugment("none", normalisation=Normalisation(**how))
    sample, _ = augment(image, mask, whole((4, 6, 8)).framed((8, 8, 8)), 0)
    own = sample[:, 2:6, 1:7]
    expected = (image.clip(-1, 5) - 3) / 2 if "mean" in how else (image - image.mean()) / image.std()
    np.testing.assert_allclose(own, expected, atol=1e-5)


def test_what_volumes_cannot_do_is_named():
    with pytest.raises(InputError, match=r"--data\.augment aerial is for images: volumes have none and anatomy"):
        VolumeAugment("aerial")
    with pytest.raises(InputError, match=r"Unknown mirror axis 'depth'.*slices, rows, columns"):
        VolumeAugment("none", mirror=["depth"])

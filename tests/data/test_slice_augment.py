"""Augmentation: reproducible, joint for image and mask, any channel count, intensities changed after normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlla_seg.data.boxes import Box, whole
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.dataspec import Normalisation
from mlla_seg.data.intensity import change_intensity
from mlla_seg.data.slice_augment import AUGMENTATIONS, MOST_CHANNELS, SliceAugment
from mlla_seg.errors import InputError
from mlla_seg.models.segmenter import Normalise

SEEDS = range(12)
QUARTER_TURNS = [name for name, geometry in AUGMENTATIONS.items() if geometry.quarter_turns]


@pytest.fixture
def mask():
    """Blocks of 8 pixels of class 0, 1 or 5, changed by every flip and quarter turn."""
    blocks = np.random.default_rng(0).choice(np.array([0, 1, 5], dtype=np.uint8), (6, 6))
    return np.kron(blocks, np.ones((8, 8), dtype=np.uint8))


def noise(channels, height, width):
    return np.random.default_rng(1).normal(40, 100, (channels, height, width)).astype(np.float32)


def applied(augment, image, mask, seed, box=None):
    return augment(image, mask, box or whole(mask.shape), seed)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_seed_decides_the_result(name, mask):
    image = noise(1, 48, 48)
    first, second = (SliceAugment(name, None, intensity=1) for _ in range(2))
    results = []
    for seed in SEEDS:
        results.append(applied(first, image, mask, seed))
        for mine, same in zip(results[-1], applied(second, image, mask, seed), strict=True):
            np.testing.assert_array_equal(mine, same)
    assert len({image.tobytes() for image, _ in results}) > 9
    assert len({labels.tobytes() for _, labels in results}) == 1 if name == "none" else 3
    np.testing.assert_array_equal(image, noise(1, 48, 48))  # the input is not changed


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_samples_have_one_shape_and_type_and_no_new_class(name, channels, mask):
    augment = SliceAugment(name, (32, 32), intensity=0.5)
    for seed in SEEDS:
        image, labels = applied(augment, noise(channels, 48, 48), mask, seed, Box((9, 5), (32, 32)))
        assert image.shape == (channels, 32, 32)
        assert labels.shape == (32, 32)
        assert (image.dtype, labels.dtype) == (np.float32, np.uint8)
        assert np.isfinite(image).all()
        assert set(np.unique(labels)) <= {0, 1, 5, 255}
        assert image.flags.c_contiguous and labels.flags.c_contiguous


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_crops_keep_height_and_width(name, mask):
    if name in QUARTER_TURNS:
        pytest.skip("these need square crops")
    augment = SliceAugment(name, (24, 40))
    shapes = {applied(augment, noise(1, 48, 48), mask, seed, Box((0, 4), (24, 40)))[1].shape for seed in SEEDS}
    assert shapes == {(24, 40)}


@pytest.mark.parametrize("name", QUARTER_TURNS)
def test_quarter_turns_need_square_samples(name):
    for sizes in ({"crop": [24, 40]}, {"resize": [24, 40]}):
        with pytest.raises(InputError, match=rf"{name} makes quarter turns, so crops must be square, got \[24, 40\]"):
            SegmentationDataModule("phantom", "data/phantom", augment=name, **sizes)
    # What is turned is the crop; the slices that it is cut from may have any shape.
    SegmentationDataModule("phantom", "data/phantom", augment=name, resize=[48, 64], crop=[32, 32])


def test_more_channels_than_can_be_moved_are_refused_before_training(mask):
    for name in AUGMENTATIONS:
        moved = applied(SliceAugment(name, (24, 24)), noise(MOST_CHANNELS, 48, 48), mask, 0, Box((12, 12), (24, 24)))
        assert moved[0].shape == (MOST_CHANNELS, 24, 24)
    sizes = {"crop": [24, 24], "context": MOST_CHANNELS // 2 + 1}
    with pytest.raises(InputError, match=rf"at most {MOST_CHANNELS} channels, got 129: use none"):
        SegmentationDataModule("phantom", "data/phantom", augment="anatomy", **sizes)
    SegmentationDataModule("phantom", "data/phantom", augment="none", **sizes)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("box", [Box((0, 0), (48, 48)), Box((8, 9), (32, 32)), Box((-8, 10), (64, 64))])
def test_image_and_mask_move_together(name, box, mask):
    mask = (mask > 0).astype(np.uint8)
    augment = SliceAugment(name, None)
    for seed in SEEDS:
        image, labels = applied(augment, mask[None].astype(np.float32), mask, seed, box)
        inside = (np.abs(image[0] - np.rint(image[0])) < 0.05) & (labels != 255)  # between lie borders
        assert inside.sum() > 300
        assert (np.rint(image[0]) == labels)[inside].mean() >= 0.97


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_crops_are_cut_large_enough_for_what_moves_them(name):
    """No corner shows a repeated border where the image continues: a ramp stays a ramp, and nothing is ignored."""
    rows, columns = np.mgrid[:400, :400].astype(np.float32)
    image, mask = np.stack([rows, columns]), np.zeros((400, 400), np.uint8)
    for seed in range(40):
        moved, labels = applied(SliceAugment(name, (60, 60)), image, mask, seed, Box((170, 170), (60, 60)))
        assert labels.max() == 0
        for axis in (1, 2):  # the step along an axis is the same everywhere
            assert np.ptp(np.diff(moved, axis=axis), axis=(1, 2)).max() < 0.05


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_channels_move_together(name, mask):
    image = np.stack([mask.astype(np.float32) * factor for factor in (1, -2, 3, 0.5, 100)])
    for seed in SEEDS:
        moved, _ = applied(SliceAugment(name, None), image, mask, seed)
        for channel, factor in zip(moved, (1, -2, 3, 0.5, 100), strict=True):
            np.testing.assert_allclose(channel, moved[0] * factor, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_geometry_does_not_clip_values(name, mask):
    image = np.where(mask == 5, 3000, -1000)[None].astype(np.float32)
    for seed in SEEDS:
        moved, _ = applied(SliceAugment(name, None), image, mask, seed)
        assert (moved.min(), moved.max()) == pytest.approx((-1000, 3000), abs=0.1)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_lies_outside_of_the_image_is_ignored(name):
    mask = np.ones((20, 40), np.uint8)
    for seed in SEEDS:
        image, labels = applied(SliceAugment(name, (32, 32)), noise(1, 20, 40), mask, seed, Box((-6, 4), (32, 32)))
        assert image.shape == (1, 32, 32)
        assert set(np.unique(labels)) == {1, 255}


@pytest.mark.parametrize(
    "how",
    [
        {"per_image": True},
        {"per_image": True, "window": (-50, 100)},
        {"window": (-50, 100), "mean": 20.0, "std": 30.0},
        {"mean": (20.0, 40.0), "std": (3.0, 5.0)},
        {},
    ],
)
def test_samples_are_normalised_as_the_network_does_by_their_own_pixels(how):
    image, mask = noise(2, 20, 40), np.zeros((20, 40), np.uint8)
    expected = Normalise(2, **how)(torch.from_numpy(image)[None, :, :, 4:36])[0].numpy()
    augment = SliceAugment("none", (32, 32), normalisation=Normalisation(**how))
    padded, _ = applied(augment, image, mask, 0, Box((-6, 4), (32, 32)))
    np.testing.assert_allclose(padded[:, 6:26], expected, atol=1e-5)
    np.testing.assert_array_equal(padded[:, :6], np.repeat(padded[:, 6:7], 6, axis=1))


def test_numbers_of_the_normalisation_hold_for_every_neighbour():
    how = Normalisation(mean=(20.0, 40.0), std=(3.0, 5.0))
    image, mask = noise(6, 8, 8), np.zeros((8, 8), np.uint8)
    sample, _ = applied(SliceAugment("none", None, normalisation=how, context=1), image, mask, 0)
    for k in range(3):
        np.testing.assert_allclose(sample[2 * k], (image[2 * k] - 20) / 3, rtol=1e-5)
        np.testing.assert_allclose(sample[2 * k + 1], (image[2 * k + 1] - 40) / 5, rtol=1e-5)


def test_steps_of_an_augmentation_are_drawn_apart():
    """The choice among the eight flips is independent of rotation and scaling in ``aerial``."""
    image, mask = np.arange(36, dtype=np.float32).reshape(1, 6, 6), np.zeros((6, 6), np.uint8)
    views = [np.rot90(side, k).tobytes() for side in (image[0], image[0].T) for k in range(4)]
    results = [applied(SliceAugment("aerial", None), image, mask, seed)[0][0].tobytes() for seed in range(600)]
    shares = [results.count(view) / 600 for view in views]
    assert shares == pytest.approx([1 / 16] * 8, abs=0.04)


def test_transunet_recipe_turns_and_mirrors_evenly():
    # Published: for half the samples a turn by 0, 90, 180 or 270 degrees and then a mirroring along either axis, each
    # equally likely, which are the four reflections; half of the others are rotated by up to 20 degrees.
    image = np.arange(36, dtype=np.float32).reshape(1, 6, 6)
    augment = SliceAugment("transunet", None)
    reflections = [np.rot90(image[0], k).T.tobytes() for k in range(4)]
    results = [applied(augment, image, np.zeros((6, 6), np.uint8), seed)[0][0].tobytes() for seed in range(1000)]
    assert results.count(image.tobytes()) / 1000 == pytest.approx(0.25, abs=0.05)
    assert [results.count(one) / 1000 for one in reflections] == pytest.approx([0.125] * 4, abs=0.035)


@pytest.mark.parametrize(("axes", "kinds"), [(["rows"], 2), (["columns"], 2), (["rows", "columns"], 4)])
def test_samples_are_mirrored_along_the_axes_that_are_named(axes, kinds):
    image, mask = noise(1, 6, 8), np.arange(48, dtype=np.uint8).reshape(6, 8)
    seen = {"": image[0], "rows": image[0, ::-1], "columns": image[0, :, ::-1], "both": image[0, ::-1, ::-1]}
    augment = SliceAugment("none", None, mirror=axes)
    found = []
    for seed in range(200):
        moved, labels = applied(augment, image, mask, seed)
        (name,) = [name for name, expected in seen.items() if np.array_equal(moved[0], expected)]
        assert np.array_equal(moved[0], image[0].ravel()[labels])  # the mask moves with it
        found.append(name)
    assert {name for name in found if name} == {*axes, *(["both"] if kinds == 4 else [])}
    assert found.count("") / 200 == pytest.approx(1 / kinds, abs=0.12)


@pytest.mark.parametrize("deviation", [1.0, 3.0])
def test_elastic_shifts_are_as_large_as_asked_and_in_a_third_of_the_samples(deviation):
    rows, columns = np.mgrid[:160, :160].astype(np.float32)
    image, mask, box = np.stack([rows, columns]), np.zeros((160, 160), np.uint8), Box((40, 40), (80, 80))
    augment = SliceAugment("none", (80, 80), elastic=deviation)
    moved = [applied(augment, image, mask, seed, box)[0] - image[:, 40:120, 40:120] for seed in range(120)]
    deformed = [shift for shift in moved if np.abs(shift).max() > 0]
    assert len(deformed) / 120 == pytest.approx(1 / 3, abs=0.12)
    assert np.std(deformed) == pytest.approx(deviation, rel=0.2)


def test_colours_change_in_views_from_above_alone():
    image = np.broadcast_to(noise(1, 16, 16) / 100, (3, 16, 16))
    for name, apart in (("anatomy", False), ("aerial", True)):
        means = [change_intensity(image, np.random.default_rng(s), 1, AUGMENTATIONS[name].colours) for s in range(40)]
        assert (np.std([one.mean(axis=(1, 2)) for one in means], axis=1).mean() > 0.03) == apart


def test_unknown_name_suggests_the_near_one():
    with pytest.raises(InputError, match=r"Unknown augmentation 'anatomi'\. Did you mean anatomy"):
        SliceAugment("anatomi", None)


def strengths(image, strength, seeds=range(60)):
    changed = [change_intensity(image, np.random.default_rng(seed), strength) for seed in seeds]
    return np.array([np.abs(one - image).mean() for one in changed]), changed


def test_strength_decides_how_much_intensities_change():
    image = (noise(1, 24, 20) - 40) / 100
    weak, strong = (strengths(image, strength)[0] for strength in (0.3, 1))
    assert 0 < weak.mean() < strong.mean() < 0.5
    assert (strong == 0).mean() < 0.4


def test_intensities_survive_the_normalisation_of_mr():
    """Contrast and brightness changes reach the network although each image is standardised by itself."""
    image, mask = noise(1, 32, 32), np.zeros((32, 32), np.uint8)
    augment = SliceAugment("none", None, intensity=1, normalisation=Normalisation(per_image=True))
    samples = [applied(augment, image, mask, seed)[0] for seed in range(100)]
    means, spreads = np.array([s.mean() for s in samples]), np.array([s.std() for s in samples])
    assert means.std() > 0.05
    assert spreads.std() > 0.05


@pytest.mark.parametrize("metal", [None, 3071])
def test_organs_of_a_ct_stay_in_their_window(metal):
    image = np.full((1, 64, 64), -1000, np.float32)
    image[0, 10:54, 10:54] = 60  # an organ
    if metal:
        image[0, 30:32, 30:32] = metal
    how = Normalisation(mean=75.0, std=100.0, window=(-125.0, 275.0))
    augment = SliceAugment("none", None, intensity=0.5, normalisation=how)
    organ = [applied(augment, image, np.zeros((64, 64), np.uint8), seed)[0][0, 15:25, 15:25] for seed in range(200)]
    assert np.abs(np.array(organ) - (60 - 75) / 100).mean() < 0.3
    assert (np.abs(np.array(organ).mean(axis=(1, 2)) * 100 + 75 - 75) < 200).all()


@pytest.mark.parametrize("value", [0, 1, -3, 5])
def test_constant_image_stays_finite_and_constant_but_for_noise(value):
    image = np.full((2, 8, 8), value, dtype=np.float32)
    for changed in strengths(image, 1)[1]:
        assert np.isfinite(changed).all()
        assert np.abs(changed - value).max() < 1.5

"""Augmentation: decided by its seed, image and mask together, in any units and number of channels."""

from __future__ import annotations

import numpy as np
import pytest

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.transforms import AUGMENTATIONS, MOST_CHANNELS, QUARTER_TURNS, Augment, change_intensity, pad_to
from mlla_seg.errors import InputError

SEEDS = range(12)


@pytest.fixture
def mask():
    """Blocks of 8 pixels of class 0, 1 or 5, the same under no flip or turn."""
    blocks = np.random.default_rng(0).choice(np.array([0, 1, 5], dtype=np.uint8), (6, 6))
    return np.kron(blocks, np.ones((8, 8), dtype=np.uint8))


def noise(channels, height, width):
    return np.random.default_rng(1).normal(40, 100, (channels, height, width)).astype(np.float32)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_seed_decides_the_result(name, mask):
    image = noise(1, 48, 48)
    first, second = (Augment(name, None, intensity=0) for _ in range(2))
    results = []
    for seed in SEEDS:
        np.testing.assert_array_equal(first(image, mask, seed)[1], second(image, mask, seed)[1])
        results.append(first(image, mask, seed)[0])
        np.testing.assert_array_equal(second(image, mask, seed)[0], results[-1])
    distinct = {result.tobytes() for result in results}
    assert len(distinct) == 1 if name == "none" else len(distinct) > 3
    np.testing.assert_array_equal(image, noise(1, 48, 48))  # the input is not changed


def test_seed_decides_crop_and_intensity():
    image, mask = noise(1, 48, 48), np.zeros((48, 48), np.uint8)
    augment = Augment("none", (16, 16), intensity=1)
    results = [augment(image, mask, seed)[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.allclose(np.sort(results[0], None), np.sort(results[2], None))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_samples_have_one_shape_and_type_and_no_new_class(name, channels, mask):
    augment = Augment(name, (32, 32), intensity=0.5)
    for seed in SEEDS:
        image, labels = augment(noise(channels, 48, 48), mask, seed)
        assert image.shape == (channels, 32, 32)
        assert labels.shape == (32, 32)
        assert (image.dtype, labels.dtype) == (np.float32, np.uint8)
        assert np.isfinite(image).all()
        assert set(np.unique(labels)) <= {0, 1, 5}
        assert image.flags.c_contiguous and labels.flags.c_contiguous


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_crops_keep_height_and_width_unless_quarter_turns_are_announced(name, mask):
    augment = Augment(name, (24, 40))
    shapes = {augment(noise(1, 48, 48), mask, seed)[1].shape for seed in SEEDS}
    assert shapes == ({(24, 40), (40, 24)} if name in QUARTER_TURNS else {(24, 40)})


@pytest.mark.parametrize("name", QUARTER_TURNS)
def test_quarter_turns_need_square_samples(name):
    for sizes in ({"crop": [24, 40]}, {"resize": [24, 40]}):
        with pytest.raises(InputError, match=rf"{name} makes quarter turns, so crops must be square, got \[24, 40\]"):
            SegmentationDataModule("phantom", "data/phantom", augment=name, **sizes)
    # What is turned is the crop; the slices that it is cut from may have any shape.
    SegmentationDataModule("phantom", "data/phantom", augment=name, resize=[48, 64], crop=[32, 32])


def test_more_channels_than_can_be_moved_are_refused_before_training(mask):
    for name in AUGMENTATIONS:
        assert Augment(name, (24, 24))(noise(MOST_CHANNELS, 48, 48), mask, 0)[0].shape == (MOST_CHANNELS, 24, 24)
    sizes = {"crop": [24, 24], "context": MOST_CHANNELS // 2 + 1}
    with pytest.raises(InputError, match=rf"at most {MOST_CHANNELS} channels, got 129: say none"):
        SegmentationDataModule("phantom", "data/phantom", augment="anatomy", **sizes)
    SegmentationDataModule("phantom", "data/phantom", augment="none", **sizes)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize(("size", "crop"), [(None, None), (None, (32, 32)), ((64, 64), (40, 40)), ((36, 36), None)])
def test_image_and_mask_move_together(name, size, crop, mask):
    mask = (mask > 0).astype(np.uint8)
    augment = Augment(name, crop)
    for seed in SEEDS:
        image, labels = augment(mask[None].astype(np.float32), mask, seed, size)
        inside = np.abs(image[0] - np.rint(image[0])) < 0.05  # in between lie the borders, which are interpolated
        assert inside.mean() > 0.5
        assert (np.rint(image[0]) == labels)[inside].mean() >= 0.97


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_channels_move_together(name, mask):
    image = np.stack([mask.astype(np.float32) * factor for factor in (1, -2, 3, 0.5, 100)])
    for seed in SEEDS:
        moved, _ = Augment(name, None)(image, mask, seed)
        for channel, factor in zip(moved, (1, -2, 3, 0.5, 100), strict=True):
            np.testing.assert_allclose(channel, moved[0] * factor, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_values_are_not_clipped(name, mask):
    image = np.where(mask == 5, 3000, -1000)[None].astype(np.float32)
    for seed in SEEDS:
        moved, _ = Augment(name, None)(image, mask, seed)
        assert (moved.min(), moved.max()) == pytest.approx((-1000, 3000), abs=0.1)


def test_padding_repeats_the_image_and_is_ignored():
    image, mask = noise(2, 3, 5), np.ones((3, 5), np.uint8)
    padded, labels = pad_to(image, mask, (8, 6))
    rows, columns = np.clip(np.arange(-2, 6), 0, 2), np.clip(np.arange(0, 6), 0, 4)
    np.testing.assert_array_equal(padded, image[:, rows][:, :, columns])
    expected = np.full((8, 6), 255)
    expected[2:5, :5] = 1
    np.testing.assert_array_equal(labels, expected)
    unchanged = pad_to(image, mask, (3, 4))
    assert unchanged[0] is image and unchanged[1] is mask


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_slice_smaller_than_the_crop_is_padded(name):
    mask = np.ones((20, 40), np.uint8)
    for seed in SEEDS:
        image, labels = Augment(name, (32, 32))(noise(1, 20, 40), mask, seed)
        assert image.shape == (1, 32, 32)
        assert labels.shape == (32, 32)
        assert set(np.unique(labels)) == {1, 255}


@pytest.mark.parametrize("shape", [(30, 50), (96, 24), (24, 18), (72, 54), (48, 36)])
def test_resizing_keeps_place_and_values(shape):
    ramp = np.broadcast_to(np.linspace(-1000, 3000, 48, dtype=np.float32)[:, None], (48, 36))
    mask = (ramp > 1000).astype(np.uint8) * 7
    image, labels = Augment("none", None)(ramp[None].copy(), mask, 0, shape)
    assert image.shape == (1, *shape)
    assert labels.shape == shape
    np.testing.assert_allclose(image[0, :, 0], np.interp(_centres(shape[0]), _centres(48), ramp[:, 0]), atol=60)
    assert set(np.unique(labels)) == {0, 7}
    np.testing.assert_array_equal(labels[:, 0] == 7, _centres(shape[0]) > 0.5)


def _centres(count):
    """Places of pixels along an axis of length 1."""
    return (np.arange(count) + 0.5) / count


def test_transunet_recipe_turns_and_mirrors_evenly():
    # Published: for half the samples a turn by 0, 90, 180 or 270 degrees and then a mirroring along either axis, each
    # equally likely, which are the four reflections; half of the others are rotated by up to 20 degrees.
    image = np.arange(36, dtype=np.float32).reshape(1, 6, 6)
    augment = Augment("transunet", None)
    reflections = [np.rot90(image[0], k).T.tobytes() for k in range(4)]
    results = [augment(image, np.zeros((6, 6), np.uint8), seed)[0][0].tobytes() for seed in range(1000)]
    assert results.count(image.tobytes()) / 1000 == pytest.approx(0.25, abs=0.05)
    assert [results.count(one) / 1000 for one in reflections] == pytest.approx([0.125] * 4, abs=0.035)


def test_unknown_name_suggests_the_near_one():
    with pytest.raises(InputError, match=r"Unknown augmentation 'anatomi'\. Did you mean anatomy"):
        Augment("anatomi", None, None)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_intensities_change_alike_in_any_units(channels):
    image = noise(channels, 24, 20)
    for seed in SEEDS:
        change = change_intensity(image, np.random.default_rng(seed), 1)
        scaled = change_intensity(image * 1000, np.random.default_rng(seed), 1)
        moved = change_intensity(image - 1024, np.random.default_rng(seed), 1)
        np.testing.assert_allclose(scaled / 1000, change, rtol=1e-3, atol=0.1)
        np.testing.assert_allclose(moved + 1024, change, rtol=1e-3, atol=0.1)
        assert change.shape == image.shape
        assert change.dtype == np.float32


def test_strength_decides_how_much_intensities_change():
    image = noise(1, 24, 20)
    changes = [
        np.mean([np.abs(change_intensity(image, np.random.default_rng(s), strength) - image).mean() for s in SEEDS])
        for strength in (0, 0.5, 1)
    ]
    assert changes[0] == pytest.approx(0, abs=1e-3)
    assert 0 < 2 * changes[0] < changes[1] < changes[2] < image.std()


@pytest.mark.parametrize("value", [0, 1, -1000, 3000, 65535])
def test_constant_image_stays_finite_and_near(value):
    image = np.full((2, 8, 8), value, dtype=np.float32)
    for seed in SEEDS:
        np.testing.assert_allclose(change_intensity(image, np.random.default_rng(seed), 1), image, rtol=1e-5, atol=1e-5)

"""Parts of resized images: bit for bit those of the whole, made from the pixels that they depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlla_seg.data.resampling import nearest_pixels, resize_images, resize_masks, resize_part, stored_part

SIZES = [
    ((61, 47), (49, 38)),
    ((61, 47), (20, 80)),
    ((30, 47), (87, 47)),
    ((30, 47), (30, 12)),
    ((7, 1), (5, 3)),
]


@pytest.mark.parametrize(("stored", "size"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_part_is_that_of_the_whole(stored, size, channels):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(0, 300, (2, channels, *stored)).astype(np.float32))
    masks = torch.from_numpy(rng.integers(0, 256, (2, *stored), dtype=np.uint8))
    whole, labels = resize_images(images, size), resize_masks(masks, size)
    for _ in range(10):
        counts = [int(rng.integers(least, n + 1)) for least, n in zip((1, 2), size, strict=True)]
        starts = [int(rng.integers(0, n - count + 1)) for n, count in zip(size, counts, strict=True)]
        wanted = [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]
        part = [stored_part(*of_axis) for of_axis in zip(wanted, size, stored, strict=True)]
        found = resize_part(images[..., part[0], part[1]], part, stored, size, wanted)
        assert torch.equal(found, whole[..., wanted[0], wanted[1]])
        rows, columns = (nearest_pixels(*of_axis) for of_axis in zip(wanted, size, stored, strict=True))
        assert part[0].start <= rows.min() and rows.max() < part[0].stop
        assert torch.equal(masks[:, rows[:, None], columns], labels[:, wanted[0], wanted[1]])


@pytest.mark.parametrize(
    ("wanted", "size", "stored", "part"),
    [
        (slice(100, 200), 512, 512, slice(100, 200)),  # size kept
        (slice(100, 200), 256, 512, slice(196, 404)),  # the filter reaches two pixels of the coarser grid
        (slice(100, 200), 1024, 512, slice(47, 103)),  # or of the finer one
        (slice(0, 256), 256, 512, slice(0, 512)),
    ],
)
def test_few_pixels_more_are_read_than_a_part_covers(wanted, size, stored, part):
    assert stored_part(wanted, size, stored) == part

"""Boxes: sampled inside the image, padded as by the network, cropped with a repeated and ignored border."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlla_seg.data.boxes import Box, cut, draw_box, whole
from mlla_seg.data.framing import margin, pad


@pytest.mark.parametrize(("size", "crop"), [((40, 60), (20, 10)), ((8, 30), (16, 16)), ((5, 5), (5, 5))])
def test_drawn_boxes_stay_inside_and_contain_their_pixel(size, crop):
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(200):
        around = [int(rng.integers(n)) for n in size]
        box = draw_box(size, crop, around, rng)
        assert box.sides == tuple(map(min, size, crop))
        assert box.inside(size) == box
        for part, place in zip((box.rows, box.columns), around, strict=True):
            assert part.start <= place < part.stop
        corners.add(draw_box(size, crop, None, rng).corner)
    assert len(corners) > 10 or size == crop


@pytest.mark.parametrize(("size", "frame"), [((3, 5), (8, 6)), ((9, 5), (8, 8)), ((8, 6), (8, 6))])
def test_framed_as_the_network_frames(size, frame):
    image = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    mask = np.ones(size, np.uint8)
    piece, labels, own = cut(image, mask, whole(size).framed(frame))
    above, left = margin(size[0], frame[0]), margin(size[1], frame[1])
    below, right = (max(0, f - n) - m for n, f, m in zip(size, frame, (above, left), strict=True))
    expected = pad(torch.from_numpy(image)[None], [left, right, above, below])[0]
    np.testing.assert_array_equal(piece, expected.numpy())
    inside = np.zeros(labels.shape, bool)
    inside[above : above + size[0], left : left + size[1]] = True
    np.testing.assert_array_equal(labels, np.where(inside, 1, 255))
    np.testing.assert_array_equal(own, inside)


def test_cut_beyond_a_corner_repeats_the_border():
    image, mask = np.arange(12, dtype=np.float32).reshape(1, 3, 4), np.arange(12, dtype=np.uint8).reshape(3, 4)
    piece, labels, own = cut(image, mask, Box((1, -2), (3, 4)))
    assert piece[0].tolist() == [[4, 4, 4, 5], [8, 8, 8, 9], [8, 8, 8, 9]]
    assert labels.tolist() == [[255, 255, 4, 5], [255, 255, 8, 9], [255] * 4]
    assert own.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0] * 4]


def test_grown_boxes_keep_their_centre():
    assert Box((10, 20), (8, 4)).grown(1.5) == Box((8, 19), (12, 6))
    assert Box((10, 20), (8, 4)).grown(1.0) == Box((10, 20), (8, 4))
    assert Box((0, 20), (8, 4)).grown(2.0).inside((30, 22)) == Box((0, 18), (12, 4))

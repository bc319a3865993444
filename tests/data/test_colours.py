"""Masks in colours: every class and ignored colour, and what is neither."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlla_seg.data.colours import values_of_colours
from mlla_seg.data.spec import load_card
from mlla_seg.errors import InputError

PATH = Path("tile.tif")


@pytest.fixture
def card():
    base = load_card("vaihingen")
    return replace(base, layout={**base.layout, "ignored_colours": [[0, 0, 0], [1, 2, 3]]})


def painted(colours):
    return np.array(colours, np.uint8).T[None, :, None]  # one row of pixels, (1, 3, 1, n)


def test_colours_become_classes_and_ignored(card):
    colours = [entry["colour"] for entry in card.classes]
    found = values_of_colours(painted([*colours[::-1], [0, 0, 0], [1, 2, 3]]), card, PATH)
    assert found.shape == (1, 1, 1, 8)
    assert found.ravel().tolist() == [5, 4, 3, 2, 1, 0, 255, 255]


def test_ids_of_the_card_are_the_values(card):
    classes = tuple({**entry, "id": 10 * k} for k, entry in enumerate(card.classes))
    found = values_of_colours(painted([[255, 0, 0], [0, 0, 255]]), replace(card, classes=classes), PATH)
    assert found.ravel().tolist() == [50, 10]


def test_what_is_no_colour_of_the_card_is_named(card):
    with pytest.raises(
        InputError, match=r"tile\.tif: colour \[9, 8, 7\] in 2 pixels is none of the card vaihingen: \[255"
    ):
        values_of_colours(painted([[255, 0, 0], [9, 8, 7], [9, 8, 7]]), card, PATH)
    with pytest.raises(InputError, match=r"tile\.tif: has 1 channels of uint8; the card vaihingen expects colours"):
        values_of_colours(np.zeros((1, 1, 4, 4), np.uint8), card, PATH)

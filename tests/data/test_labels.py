"""Masks of ids, colours and grey values to classes, and values that belong to no class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlla_seg.data.card import load_card
from mlla_seg.data.labels import class_indices, refuse_unknown
from mlla_seg.errors import InputError

PATH = Path("tile.tif")
KAMPALA = load_card("kampala")


@pytest.fixture
def card():
    base = load_card("vaihingen")
    return replace(base, layout=replace(base.layout, ignored_colours=[[0, 0, 0], [1, 2, 3]]))


def painted(colours):
    return np.array(colours, np.uint8).T[None, :, None]  # one row of pixels, (1, 3, 1, n)


def refused(card, mask):
    with pytest.raises(InputError) as caught:
        refuse_unknown(card, class_indices(card, mask, PATH)[1], PATH)
    return str(caught.value)


def test_colours_become_classes_and_ignored(card):
    colours = [entry.colour for entry in card.classes]
    found, unknown = class_indices(card, painted([*colours[::-1], [0, 0, 0], [1, 2, 3]]), PATH)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[5, 4, 3, 2, 1, 0, 255, 255]]]
    assert not unknown


def test_colours_are_those_of_classes_whatever_their_ids(card):
    classes = tuple(replace(entry, id=10 * k) for k, entry in enumerate(card.classes))
    found, _ = class_indices(replace(card, classes=classes), painted([[255, 0, 0], [0, 0, 255]]), PATH)
    assert found.tolist() == [[[5, 1]]]


def test_opaque_colours_lose_their_alpha(card):
    mask = np.concatenate([painted([[255, 0, 0], [0, 0, 255]]), np.full((1, 1, 1, 2), 255, np.uint8)], axis=1)
    assert class_indices(card, mask, PATH)[0].tolist() == [[[5, 1]]]
    mask[0, 3, 0, 0] = 0
    with pytest.raises(InputError, match=r"tile\.tif: has 4 channels of values from 0 to 255; the card vaihingen"):
        class_indices(card, mask, PATH)


def test_what_is_no_colour_of_the_card_is_named(card):
    message = refused(card, painted([[255, 0, 0], [9, 8, 7], [9, 8, 7], [200, 0, 0]]))
    assert message.startswith(
        "tile.tif: colour [9, 8, 7] in 2 pixels and 1 other such values is not in the card vaihingen: [255, 255, 255]"
    )
    assert message.endswith("[0, 0, 0], [1, 2, 3]. Correct the mask, or add the colour to classes or ignored_colours.")
    with pytest.raises(
        InputError, match=r"tile\.tif: has 1 channels of values from 0 to 0; the card vaihingen expects"
    ):
        class_indices(card, np.zeros((1, 1, 4, 4), np.uint8), PATH)


def greys(*values, channels=1, dtype=np.uint8):
    return np.array(values, dtype)[None, None, None].repeat(channels, axis=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_greys_are_cut_at_the_threshold(channels):
    card = replace(KAMPALA, layout=replace(KAMPALA.layout, mask_threshold=127))
    found, unknown = class_indices(card, greys(0, 3, 127, 128, 254, 255, channels=channels), PATH)
    assert found.tolist() == [[[0, 0, 0, 1, 1, 1]]]
    assert not unknown
    coloured = greys(0, 255, channels=3)
    coloured[0, 0, 0, 0] = 9
    with pytest.raises(
        InputError, match=r"tile\.tif: has 3 different channels; with mask_threshold a mask must have one"
    ):
        class_indices(card, coloured, PATH)


def test_greys_without_a_threshold_are_told_of_it():
    message = refused(KAMPALA, greys(0, 254, 253, 253))
    assert (
        "tile.tif: mask value 253 in 2 voxels and 1 other such values; expected 0 to 1 (background, building)"
        in message
    )
    assert message.endswith("If the mask stores grey levels, set mask_threshold in the card's layout.")
    assert "threshold" not in refused(KAMPALA, greys(0, 2))


def test_ids_may_have_errors_of_rounding_but_values_between_them_are_told():
    scaled = np.arange(2, dtype=np.float32) * 255 * np.float32(1 / 255) * np.float32(1.0000002)
    found, unknown = class_indices(KAMPALA, greys(*scaled, 0.9999, -0.0, dtype=np.float32), PATH)
    assert found.tolist() == [[[0, 1, 1, 0]]] and not unknown
    message = refused(KAMPALA, greys(0, 1, 0.5, np.inf, dtype=np.float32))
    assert "mask value 0.5 in 1 voxels and 1 other" in message and "nearest neighbours" in message


def test_several_channels_are_told_by_their_values():
    one_hot = np.stack([greys(0, 1)[0], greys(1, 0)[0]], axis=1)[:, :, 0]
    with pytest.raises(InputError, match=r"has 2 channels; .* store the number of the class instead"):
        class_indices(KAMPALA, one_hot, PATH)
    with pytest.raises(InputError, match=r"has 3 channels; .* Set coloured_masks"):
        class_indices(KAMPALA, greys(0, 255, channels=3) * np.array([1, 0, 0], np.uint8)[:, None, None], PATH)


@pytest.mark.parametrize("alpha", [None, 255, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_greys_that_were_saved_as_opaque_colours_are_ids(channels, alpha):
    ids = greys(0, 1, 1, channels=channels)
    mask = ids if alpha is None else np.concatenate([ids, np.full_like(ids[:, :1], alpha)], axis=1)
    if alpha == 7:
        with pytest.raises(InputError, match=f"has {channels + 1} channels"):
            class_indices(KAMPALA, mask, PATH)
    else:
        assert class_indices(KAMPALA, mask, PATH)[0].tolist() == [[[0, 1, 1]]]


@pytest.mark.parametrize("gaps", [False, True])
def test_gaps_are_ignored_and_damage_is_not(gaps):
    mask = greys(0, 1, np.nan, np.nan, dtype=np.float32)
    if gaps:
        found, unknown = class_indices(KAMPALA, mask, PATH, gaps=True)
        assert found.tolist() == [[[0, 1, 255, 255]]]
        assert not unknown
    else:
        assert "mask value nan in 2 voxels" in refused(KAMPALA, mask)


def test_gaps_hide_no_value_of_their_own():
    card = replace(KAMPALA, classes=tuple(replace(entry, id=k + 1) for k, entry in enumerate(KAMPALA.classes)))
    found, unknown = class_indices(card, greys(1, 2, np.nan, dtype=np.float32), PATH, gaps=True)  # 0 is no class
    assert found.tolist() == [[[0, 1, 255]]]
    assert not unknown
    assert class_indices(card, greys(0, 2, np.nan, dtype=np.float32), PATH, gaps=True)[1] == {0: 1}


def test_nodata_is_compared_as_it_was_read():
    mask = np.array([0, 1, 2**31 - 1], np.int32).astype(np.float32).reshape(1, 1, 1, 3)  # as rasters are
    found, unknown = class_indices(KAMPALA, mask, PATH, gaps=True, nodata=(2.0**31 - 1,))
    assert found.tolist() == [[[0, 1, 255]]]
    assert not unknown

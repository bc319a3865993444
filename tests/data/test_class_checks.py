"""Training masks that hold other values than the card expects: what is said of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mlla_seg.data.card import load_card
from mlla_seg.data.class_checks import check_classes
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.store.opening import open_store
from mlla_seg.errors import InputError

CARD = load_card("image_folder")


def check(root, values, mode="L", card=CARD, **layout):
    """Check a photo whose mask holds these values in equal parts."""
    card = replace(card, layout=replace(card.layout, **layout))
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "images/a.png")
    mask = Image.fromarray(np.resize(np.array(values, np.uint8) * (255 if mode == "1" else 1), (8, 8)))
    if mode == "1":
        mask = mask.convert("1")
    elif mode == "P":
        mask.putpalette([0, 0, 0, 255, 0, 0])
    mask.save(root / "masks/a.png")
    cases = find_cases(card, root)
    check_classes(card, open_store(card, cases, root, root / "store"), cases)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_ids_below_the_threshold_are_told_from_grey_levels(tmp_path, mode):
    with pytest.raises(InputError, match=r"hold 0, 1, all at or below mask_threshold: 127\. .* remove mask_threshold"):
        check(tmp_path, [0, 1], mode)


@pytest.mark.parametrize(
    ("values", "layout", "said"),
    [
        ([0, 100], {}, r"a\.png, hold 0, 100, all at or below mask_threshold: 127\. .* set mask_threshold: 50\."),
        ([200, 255], {}, r"hold 200, 255, all above mask_threshold: 127\. .* set mask_threshold: 227\.5\."),
        ([0], {}, r"no training mask contains \w+, so there is nothing to learn\. .* hold only 0: check"),
        ([0, 255], {"mask_threshold": None}, r"hold 0, 255, of which 255 is ignored\. .* set mask_threshold: 127\.5\."),
    ],
)
def test_advice_fits_the_values(tmp_path, values, layout, said):
    with pytest.raises(InputError, match=said):
        check(tmp_path, values, **layout)


def test_masks_with_both_classes_pass(tmp_path, capsys):
    check(tmp_path / "grey", [0, 255])
    check(tmp_path / "ids", [0, 1], mask_threshold=None)
    assert "note" not in capsys.readouterr().err


@pytest.mark.parametrize(("values", "ignored"), [([0, 1], False), ([0, 1, 255], True)])
def test_one_of_several_classes_that_is_absent_is_noted(tmp_path, capsys, values, ignored):
    classes = [{"name": name, "colour": [k, k, k]} for k, name in enumerate(("background", "roof", "road"))]
    three = replace(CARD, classes=classes, layout=replace(CARD.layout, mask_threshold=None))
    check(tmp_path, values, card=three)
    said = capsys.readouterr().err
    assert "note: no training mask of image_folder contains road." in said
    assert ("It may be stored as 255, which is ignored" in said) is ignored

from collections import Counter

import pytest

from mlla_seg.errors import InputError
from mlla_seg.planning.choices import choose
from mlla_seg.planning.recognise import Recognised
from mlla_seg.planning.survey import Survey

PAIRS = Recognised("pairs", {"format": "files", "patterns": [r"(?P<case>\d+)\.x"], "mask": "{case}.y"})


def surveyed(kind="volume", **changes):
    given = {
        "cases": 20,
        "images": 20,
        "masks": 20,
        "shapes": [(30, 200, 180)] * 3,
        "spacings": [(1.0, 1.0, 1.0)] * 3 if kind == "volume" else [],
        "bands": [("",)],
        "low": 0.0,
        "high": 900.0,
        "values": Counter({0: 900, 1: 100}),
    }
    return Survey(kind, **{**given, **changes})


def card_and_data(found, seen=PAIRS, device="cpu"):
    plan = choose("mine", seen, found, device)
    values = {key: choice.value for section in (plan.card, plan.data) for key, choice in section.items()}
    return values, plan.unsure


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"low": -1024.0, "high": 3000.0}, "normalisation", {"foreground": True}),
        ({"low": -1024.0, "high": 3000.0}, "modality", "CT"),
        ({"low": -1024.0, "whole": False}, "normalisation", {"per_image": True}),
        ({}, "normalisation", {"per_image": True}),
        ({}, "context", 1),
        ({"spacings": [(5.0, 1.0, 1.0)] * 3}, "context", 0),
        ({"spacings": [(1.0, 1.0, 1.0), (1.0, 0.6, 0.6)]}, "spacing_mm", [None, "median", "median"]),
        ({}, "crop", [224, 192]),
        ({"shapes": [(35, 50, 36)]}, "resize", 1.75),
        ({"shapes": [(35, 50, 36)]}, "crop", [96, 64]),
        ({"shapes": [(35, 40, 20)]}, "resize", 2.0),
        ({"shapes": [(35, 900, 800)]}, "crop", [256, 256]),
        ({"values": Counter({0: 9, 1: 1})}, "ignore_index", None),
        ({"values": Counter({0: 9, 1: 1, 255: 1})}, "ignore_index", 255),
        ({"values": Counter({0: 9, 255: 1})}, "ignore_index", None),
        ({"values": Counter({1: 9, 2: 1})}, "background", None),
    ],
)
def test_choices_follow_from_what_the_files_hold(changes, key, value):
    assert card_and_data(surveyed(**changes))[0][key] == value


def test_spacing_of_like_volumes_is_kept():
    values, _ = card_and_data(surveyed())
    assert "spacing_mm" not in values
    assert "resize" not in values


@pytest.mark.parametrize(
    ("values", "ids"),
    [({0: 9, 1: 1, 2: 1}, [None] * 3), ({0: 9, 255: 1}, [0, 255]), ({0: 5, 4: 1, 7: 1}, [0, 4, 7])],
)
def test_classes_keep_their_mask_values(values, ids):
    classes = card_and_data(surveyed(values=Counter(values)))[0]["classes"]
    assert [entry.get("id") for entry in classes] == ids


def test_names_in_the_files_become_class_names():
    values, unsure = card_and_data(surveyed(names={1: "liver"}))
    assert [entry["name"] for entry in values["classes"]] == ["background", "liver"]
    assert not unsure
    _, unsure = card_and_data(surveyed())
    assert len(unsure) == 1
    assert "rename class_1 in the card, or plan again with --classes NAME" in unsure[0]


def test_ignored_value_that_the_user_gives_is_no_class():
    found = surveyed("scene", values=Counter({0: 300, 1: 500, 2: 200}))
    assert any("0 (30% of the pixels) a background to learn, or unlabelled" in text for text in card_and_data(found)[1])
    plan = choose("mine", PAIRS, found, "cpu", ignored=0)
    assert [(entry["name"], entry["id"]) for entry in plan.card["classes"].value] == [("class_1", 1), ("class_2", 2)]
    assert plan.card["ignore_index"].value == 0
    assert plan.card["background"].value is None
    assert not any("unlabelled" in text for text in plan.unsure)
    with pytest.raises(InputError, match=r"--ignore 7: no mask holds this value; they hold 0, 1, 2\."):
        choose("mine", PAIRS, found, "cpu", ignored=7)


def test_polygons_without_a_class_are_left_out_and_said():
    found = surveyed("scene", attribute="kind", polygons=Counter({"roof": 5, "": 2, "road": 7}))
    values, unsure = card_and_data(found)
    assert [entry["name"] for entry in values["classes"]] == ["background", "road", "roof"]
    assert values["layout"]["others"] == "ignore"
    assert any("2 polygons have no kind" in text for text in unsure)


def test_colours_of_masks_become_classes():
    colours = Counter({(255, 0, 0): 5, (0, 0, 0): 2, (0, 255, 0): 9})
    values, unsure = card_and_data(
        surveyed("photo", values=Counter(), colours=colours, bands=[("red", "green", "blue")])
    )
    assert [(entry["name"], entry["colour"]) for entry in values["classes"]] == [
        ("background", [0, 0, 0]),
        ("class_1", [0, 255, 0]),
        ("class_2", [255, 0, 0]),
    ]
    assert values["layout"]["coloured_masks"] is True
    assert "Masks store colours" in unsure[0]


def test_lossy_masks_are_cut_in_the_middle():
    values, unsure = card_and_data(surveyed("photo", lossy=True, values=Counter(range(256))))
    assert values["layout"]["mask_threshold"] == 127
    assert len(values["classes"]) == 2
    assert "JPEG" in unsure[0]


def test_file_with_the_most_bands_is_not_lost_among_channels():
    layout = {**PAIRS.layout, "extra_channels": {"dsm": "{case}.d", "rgbi": "{case}.e"}}
    seen = Recognised("pairs", layout, ("rgb", "dsm", "rgbi"))
    bands = [("red", "green", "blue"), ("",), ("a", "b", "c", "d")]
    values, unsure = card_and_data(surveyed("scene", bands=bands), seen)
    assert values["channels"] == ["red", "green", "blue"]
    assert values["use"] == ["red", "green", "blue", "dsm"]
    assert values["layout"]["extra_channels"] == {"dsm": "{case}.d"}
    assert any("rgbi" in text for text in unsure)


def test_one_or_two_scenes_are_divided_into_blocks():
    values, _ = card_and_data(surveyed("scene", cases=2, shapes=[(1, 3000, 2000)]))
    assert values["splits"]["blocks"] == "4x4"
    assert values["splits"]["gap_px"] > 0
    assert "blocks" not in card_and_data(surveyed("scene", cases=3))[0]["splits"]


def test_every_choice_that_is_not_obvious_has_a_reason():
    plan = choose("mine", PAIRS, surveyed(), "cpu")
    for key in ("modality", "classes", "normalisation", "plane", "splits"):
        assert plan.card[key].reason, key
    for key in ("context", "crop", "augment"):
        assert plan.data[key].reason, key


def test_a_negative_value_is_unlabelled_or_refused():
    found = surveyed(values=Counter({-1: 5, 0: 900, 1: 100}))
    with pytest.raises(InputError, match=r"Masks hold the value -1, .* Plan again with --ignore=-1 if"):
        choose("mine", PAIRS, found, "cpu")
    plan = choose("mine", PAIRS, found, "cpu", ignored=-1)
    assert plan.card["ignore_index"].value == -1 and len(plan.card["classes"].value) == 2

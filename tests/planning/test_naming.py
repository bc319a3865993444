from collections import Counter

import pytest

from mlla_seg.errors import InputError
from mlla_seg.planning.choices import choose
from mlla_seg.planning.naming import rename
from mlla_seg.planning.recognise import Recognised
from mlla_seg.planning.survey import Survey

PAIRS = Recognised("pairs", {"format": "files", "patterns": [r"(?P<case>\d+)\.x"], "mask": "{case}.y"})


def planned(**changes):
    given = {"shapes": [(1, 300, 300)], "bands": [("",)], "values": Counter({0: 5, 1: 3, 2: 2}), **changes}
    return choose("mine", PAIRS, Survey("scene", cases=9, images=9, masks=9, low=0.0, high=9.0, **given), "cpu")


def names(plan):
    return [entry["name"] for entry in plan.card["classes"].value]


def test_names_follow_the_mask_values_and_background_may_be_left_out():
    plan = planned()
    assert any("--classes NAME NAME" in text for text in plan.unsure)
    rename(plan, ["water", "roof"])
    assert names(plan) == ["background", "water", "roof"]
    assert [entry["colour"] for entry in plan.card["classes"].value] == [[0, 0, 0], [80, 124, 230], [230, 80, 80]]
    assert not any("class_1" in text for text in plan.unsure)
    assert "background" not in plan.card


def test_class_of_value_0_may_have_another_name():
    plan = planned()
    rename(plan, ["ground", "water", "roof"])
    assert names(plan) == ["ground", "water", "roof"]
    assert plan.card["background"].value == "ground"


@pytest.mark.parametrize("polygons", [{"b": 5, "r": 7}, {"4": 5, "7": 7}])
def test_polygons_keep_their_value_under_a_new_name(polygons):
    plan = planned(values=Counter(), attribute="kind", polygons=Counter(polygons))
    rename(plan, ["road", "roof"])
    first, second = sorted(polygons, key=lambda value: -polygons[value])
    assert [str(entry.get("values")) for entry in plan.card["classes"].value] == ["None", first, second]
    assert names(plan) == ["background", "road", "roof"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a"], r"names a, but there are 3 classes: background, class_1, class_2 \(.*0: 50\.00%"),
        (["a", "b", "c", "d"], "names a, b, c, d, but there are 3 classes"),
        (["a", "a"], "a name is given twice"),
    ],
)
def test_names_that_do_not_fit_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        rename(planned(), given)

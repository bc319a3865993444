"""Cards made from the ``dataset.json`` of a folder: channels, classes, ids and regions."""

from __future__ import annotations

import pytest

from layouts import describe
from mlla_seg.data.nnunet import nnunet_card
from mlla_seg.errors import InputError


def test_description_of_version_2_makes_a_card(tmp_path):
    labels = {"ignore": 9, "stone": 7, "cyst": 2, "background": 0}
    card = nnunet_card(describe(tmp_path, channel_names={"1": "T2", "0": "T1"}, labels=labels, name="Kidney Stones"))
    assert (card.name, card.title) == ("kidney_stones", "Kidney Stones")
    assert card.channels == ("T1", "T2")
    assert card.class_names == ["background", "cyst", "stone"]
    assert card.ids == {0: 0, 2: 1, 7: 2}
    assert (card.ignore_index, card.background) == (9, "background")
    assert card.schemes == {"T1": "zscore", "T2": "zscore"}
    assert [entry.id for entry in card.class_infos] == [0, 2, 7]


def test_description_of_the_decathlon_makes_a_card(tmp_path):
    labels = {str(k): name for k, name in enumerate(["background", "liver", "cancer"])}
    card = nnunet_card(describe(tmp_path, modality={"0": "CT"}, labels=labels, reference="MSD", licence="CC"))
    assert card.class_names == ["background", "liver", "cancer"]
    assert card.schemes == {"CT": "ct"}
    assert (card.modality, card.source, card.licence) == ("CT", "MSD", "CC")
    assert card.name == tmp_path.name.lower()


def test_colours_differ_and_the_first_is_black(tmp_path):
    labels = {f"class {k}": k for k in range(60)}
    card = nnunet_card(describe(tmp_path, channel_names={"0": "MR"}, labels=labels))
    colours = {entry.colour for entry in card.classes}
    assert len(colours) == 60
    assert card.classes[0].colour == (0, 0, 0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"labels": {"background": 0, "a": 1}}, "needs channel_names"),
        ({"channel_names": {"0": "CT"}, "labels": {"background": 0}}, "at least two labels"),
        (
            {"channel_names": {"CT": 0}, "labels": {"background": 0, "a": 1}},
            r"expected numbers \(from 0\) mapped to names",
        ),
        ({"channel_names": {"0": "CT"}}, "should be a mapping with labels"),
    ],
)
def test_description_that_says_too_little_is_named(tmp_path, content, problem):
    with pytest.raises(InputError, match=rf"dataset\.json.*{problem}"):
        nnunet_card(describe(tmp_path, **content))


TUMOUR = {"background": 0, "whole": [1, 2, 4], "core": [2, 4], "enhancing": 4}


@pytest.mark.parametrize(
    ("labels", "order", "classes"),
    [
        (TUMOUR, [1, 2, 4], {"whole only": (1,), "core only": (2,), "enhancing": (4,)}),
        (
            {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": [2]},
            [1, 3, 2],
            {"kidney only": (1,), "tumor": (2,), "masses only": (3,)},
        ),
        (
            {"background": [0], "a": [1, 2], "b": [2, 3]},
            [1, 3],
            {"a only": (1,), "a and b only": (2,), "b only": (3,)},
        ),
        (
            {"background": 0, "organ": [1, 2, 3, 4], "lesion": [3, 4], "ignore": 5},
            [2, 3],
            {"organ only": (2, 1), "lesion": (3, 4)},
        ),
    ],
)
def test_regions_make_classes_of_the_ids_that_they_tell_apart(tmp_path, labels, order, classes):
    about = {"channel_names": {"0": "MR"}, "labels": labels, "regions_class_order": order}
    card = nnunet_card(describe(tmp_path, **about))
    assert {entry.name: entry.id for entry in card.classes} == {"background": (0,), **classes}
    assert [region.name for region in card.region_infos] == [*labels][1 : len(order) + 1]
    held = [{value for value, k in card.ids.items() if k in region.classes} for region in card.region_infos]
    assert held == [{ids} if isinstance(ids, int) else set(ids) for ids in [*labels.values()][1 : len(order) + 1]]
    assert [card.class_infos[region.writes].id for region in card.region_infos] == order
    assert card.ignore_index == labels.get("ignore")


def test_lists_of_one_id_are_classes(tmp_path):
    labels = {"background": [0], "a": [1], "b": 2}
    card = nnunet_card(describe(tmp_path, channel_names={"0": "MR"}, labels=labels, regions_class_order=[1, 2]))
    assert card.ids == {0: 0, 1: 1, 2: 2}
    assert card.region_infos == ()


@pytest.mark.parametrize(
    ("labels", "order", "problem"),
    [
        (TUMOUR, None, "regions_class_order is missing; expected 3 mask values, .*: whole, core, enhancing"),
        (TUMOUR, [1, 2], r"regions_class_order is \[1, 2\]; expected 3"),
        (TUMOUR, [1, 2, 2], "core writes 2 and enhancing 2; each region needs a name and a value of its own"),
        (TUMOUR, [4, 2, 1], "enhancing writes 1, but holds"),
        (TUMOUR, [2, 4, 1], r"enhancing writes 1, but holds \[4\]"),
        (TUMOUR, [1, 2, 3], r"the region enhancing writes 3, but holds \[4\]"),
        ({**TUMOUR, "core": []}, [1, 2, 4], r"the region core is \[\], expected a list"),
        ({**TUMOUR, "core": [0, 2]}, [1, 2, 4], "the region core holds 0; the mask values of classes are 1 whole only"),
        ({**TUMOUR, "core": ["x"]}, [1, 2, 4], r"the label core is \['x'\], expected an id or a list of ids"),
        ({"whole": [1, 2], "core": 2}, [1, 2], "labels have no background of id 0"),
        ({"background": 0, "core": 2, "whole": [1, 2]}, [2, 1], "core writes 2, which the later region whole would"),
    ],
)
def test_regions_that_could_not_be_written_back_are_named(tmp_path, labels, order, problem):
    more = {} if order is None else {"regions_class_order": order}
    with pytest.raises(InputError, match=rf"dataset\.json: .*{problem}") as caught:
        nnunet_card(describe(tmp_path, channel_names={"0": "MR"}, labels=labels, **more))
    assert "\n" not in str(caught.value)

"""Cards: the shipped ones are valid, and every error names the file and the problem."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from mlla_seg.data.card import Card, find_card, load_card, schema
from mlla_seg.data.card_sections import CardClass, CardNormalisation, Layout
from mlla_seg.data.card_splits import CardSplits
from mlla_seg.data.formats.planes import plane_in_words
from mlla_seg.data.regions import Region
from mlla_seg.errors import InputError
from samples import write_card

CARDS = sorted((Path(__file__).parents[2] / "datasets").glob("*/dataset.yaml"))
CLASSES = [{"name": name, "colour": [k, k, k]} for k, name in enumerate(("background", "anterior", "posterior"))]


def refused(path):
    with pytest.raises(InputError) as caught:
        load_card(path)
    return str(caught.value)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_shipped_card_is_found_by_name(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    card = load_card(path.parent.name)
    assert card == load_card(path)
    assert card.name == path.parent.name
    assert [entry.name for entry in card.class_infos] == card.class_names
    assert card.background_index == (None if card.background is None else card.class_names.index(card.background))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_shipped_card_names_the_schema_and_obeys_it(path):
    validate = pytest.importorskip("jsonschema").validate
    text = path.read_text()
    place = re.match(r"# yaml-language-server: \$schema=(.*)\n", text)[1]
    content = json.loads((path.parent / place).read_text())
    validate(yaml.safe_load(text), content)


def test_schema_in_the_repository_is_that_of_the_code():
    saved = json.loads((CARDS[0].parents[1] / "card.schema.json").read_text())
    assert saved == schema(), "write it again: python -m mlla_seg.data.card > datasets/card.schema.json"


def test_schema_refuses_what_the_program_refuses(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    content = yaml.safe_load(find_card("hippocampus").read_text())
    for wrong in ({"chanels": ["MR"]}, {"layout": {**content["layout"], "trea": "x"}}, {"plane": "axal"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**content, **wrong}, schema())


@pytest.mark.parametrize("section", [Card, CardClass, CardNormalisation, Layout, CardSplits])
def test_every_key_says_what_is_expected(section):
    for field in fields(section):
        description = section.__pydantic_fields__[field.name].description
        assert description, field.name
        assert not description.endswith(".")  # it stands in the middle of messages


def test_cards_cannot_be_changed():
    card = load_card("hippocampus")
    with pytest.raises(AttributeError):
        card.plane = "axial"
    with pytest.raises(ValidationError):
        Layout(format="files", tree="x")


def test_card_in_the_current_folder_comes_before_the_shipped_one(tmp_path, monkeypatch):
    write_card(tmp_path / "datasets/synapse", "synapse", title="mine")
    monkeypatch.chdir(tmp_path)
    assert load_card("synapse").title == "mine"


def test_place_of_the_card_is_not_for_the_card_to_say(tmp_path):
    path = write_card(tmp_path / "card", "hippocampus")
    path.write_text(path.read_text() + "folder: elsewhere\n")
    assert "Unknown key" in refused(path)


def test_background_may_be_absent(tmp_path):
    assert load_card(write_card(tmp_path / "card", "hippocampus", background=None)).background_index is None


def test_unknown_card_suggests_the_near_one():
    with pytest.raises(InputError, match=r"data set 'synaps'\. Did you mean synapse\? Known: .*hippocampus"):
        find_card("synaps")


def test_missing_file_is_named(tmp_path):
    assert str(tmp_path / "absent.yaml") in refused(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"chanels": ["MR"]}, "'chanels'. Did you mean channels?"),
        ({"licence": ...}, "lacks licence"),
        ({"licence": ..., "modality": ...}, "lacks modality, licence"),
        ({"channels": []}, "channels is [], expected a list of names of the channels"),
        ({"classes": CLASSES[:1]}, "expected a list of at least two classes"),
        ({"classes": [{"name": str(k), "colour": [0, 0, 0]} for k in range(256)]}, "at most 255 classes"),
        ({"classes": [*CLASSES, CLASSES[1]]}, "class names repeat: background, anterior, posterior, anterior"),
        (
            {"classes": [*CLASSES, {"name": "rest"}]},
            "class 3 is {'name': 'rest'}, expected",
        ),
        (
            {"classes": [*CLASSES, {"name": "rest", "colour": [0, 0]}]},
            "of class 3 is [0, 0], expected [red, green, b",
        ),
        ({"ignore_index": 2}, "ignore_index 2 is also the id of a class"),
        ({"plane": "axal"}, "'axal'. Did you mean axial?"),
        ({"largest_class": "anteror"}, "'anteror'. Did you mean anterior"),
        ({"normalisation": {"windows": [0, 1]}}, "'windows'. Did you mean window?"),
        (
            {"layout": {"format": "nnunet"}},
            "layout is {'format': 'nnunet'}, expected format, tree",
        ),
        ({"layout": {"format": "folders", "tree": "a"}}, "Known: files, nnunet"),
        ({"layout": {"format": "files", "tree": "a"}}, "needs patterns"),
        ({"layout": {"format": "nnunet", "tree": "a", "patern": "a"}}, "'patern'. Did you mean patterns"),
        ({"layout": {"format": "nnunet", "tree": "a", "split_folders": {"Tr": "trian"}}}, "Did you mean train?"),
        ({"array_units": {"scal": 3}}, "key of array_units 'scal'. Did you mean scale?"),
        ({"classes": [*CLASSES[:2], {"name": "a", "colour": [0, 0, 0], "color": 1}]}, "'color'. Did you mean colour?"),
        ({"splits": {"tests": "a.txt"}}, "'tests'. Did you mean test?"),
        ({"splits": {"test": "a.txt"}}, "splits needs train"),
        ({"scribbles": {"unlabelled": 3}}, "scribbles needs key"),
        ({"scribbles": {"key": "scribble"}}, "scribbles is {'key': 'scribble'}, expected unlabelled"),
        ({"scribbles": {"keys": "scribble", "unlabelled": 3}}, "'keys'. Did you mean key?"),
        ({"scribbles": {"key": "scribble", "unlabelled": 2}}, "scribbles has 2 for unlabelled pixels and [0, 1, 2]"),
        ({"scribbles": {"key": "scribble", "unlabelled": 0, "ids": {"backgrund": 3}}}, "Did you mean background?"),
        (
            {"scribbles": {"key": "scribble", "unlabelled": 3, "ids": {"background": 1}}},
            "each needs a value of its own",
        ),
    ],
)
def test_mistake_is_named_with_its_file(tmp_path, changes, problem):
    path = write_card(tmp_path / "card", "hippocampus", **changes)
    message = refused(path)
    assert str(path) in message
    assert problem in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channels", "MR"),
        ("channels", None),
        ("classes", None),
        ("classes", [{"name": "background", "colour": 0}, {"name": "rest", "colour": 1}]),
        ("classes", [{"name": False, "colour": [0, 0, 0]}, {"name": True, "colour": [1, 1, 1]}]),  # YAML's no and yes
        ("ignore_index", "none"),
        ("normalisation", None),
        ("layout", "nnunet"),
        ("splits", None),
    ],
)
def test_value_of_a_wrong_type_is_named_with_its_file(tmp_path, key, value):
    path = write_card(tmp_path / "card", "hippocampus", **{key: value})
    message = refused(path)
    assert str(path) in message
    assert key.removesuffix("es") in message  # "each class is ..."


@pytest.mark.parametrize(("text", "problem"), [("name: [a", "not valid YAML"), ("- name", "should be a mapping")])
def test_file_that_is_no_card_is_named(tmp_path, text, problem):
    path = tmp_path / "dataset.yaml"
    path.write_text(text)
    message = refused(path)
    assert str(path) in message
    assert problem in message


def test_ids_are_positions_unless_given(tmp_path):
    classes = [
        {"name": "background", "colour": [0, 0, 0]},
        {"name": "liver", "colour": [1, 1, 1], "id": 6},
        {"name": "kidneys", "colour": [2, 2, 2], "id": [2, 3]},
    ]
    card = load_card(write_card(tmp_path / "a", "hippocampus", classes=classes))
    assert card.ids == {0: 0, 6: 1, 2: 2, 3: 2}
    assert [entry.id for entry in card.class_infos] == [0, 6, 2]
    assert load_card("hippocampus").ids == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"spacing_mm": [1, 2]}, "spacing_mm is [1, 2], expected [slices, rows, columns] in mm"),
        ({"spacing_mm": [1, 0, 1]}, "spacing_mm is [1, 0, 1], expected"),
        ({"normalisation": {"foreground": True, "mean": 3}}, "foreground of normalisation excludes all other keys"),
        ({"channels": ["a", "b"], "normalisation": {"schemes": {"a": "ct"}}}, "schemes of normalisation lacks b"),
        ({"channels": ["a"], "normalisation": {"schemes": {"A": "ct"}}}, "Unknown channel 'A'"),
        ({"channels": ["a"], "normalisation": {"schemes": {"a": "CT"}}}, "Unknown a of schemes of normalisation"),
        ({"channels": ["a"], "normalisation": {"schemes": {"a": "ct"}, "std": 2}}, "schemes of normalisation excludes"),
        ({"layout": {"format": "nnunet", "tree": "a", "patient": "(a"}}, "patient '(a' is not a valid regular express"),
        ({"classes": [{"name": "a", "colour": [0, 0, 0], "id": 1}, {"name": "b", "colour": [0, 0, 1]}]}, "share an id"),
        (
            {"classes": [{"name": "a", "colour": [0, 0, 0]}, {"name": "b", "colour": [0, 0, 1], "id": []}]},
            "id of class 1 is",
        ),
        ({"classes": [{"name": "a", "colour": [0, 0, 0]}, {"name": "b", "colour": [0, 0, 1], "id": "x"}]}, "'x'"),
    ],
)
def test_what_volumes_need_is_checked(tmp_path, changes, problem):
    path = write_card(tmp_path / "a", "hippocampus", **{"background": None, **changes})
    assert problem in refused(path)


def test_spacing_of_the_card_is_in_the_spec(tmp_path):
    card = load_card(write_card(tmp_path / "a", "hippocampus", spacing_mm=[None, 1.5, 1.5]))
    assert card.spacing_mm == (None, 1.5, 1.5)
    assert load_card("hippocampus").spacing_mm is None


def layout_of(**changes):
    return {"format": "files", "tree": "x", "patterns": [r"(?P<case>\w+)\.nii"], **changes}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"layout": layout_of(patterns=["(x"])}, "the pattern '(x' is not a valid regular expression"),
        ({"layout": layout_of(patterns=["x"])}, "needs a group (?P<case>...)"),
        ({"layout": layout_of(patterns="x")}, "patterns of layout is 'x', expected a list of regular expressions"),
        ({"layout": layout_of(mask="{cas}.nii")}, "mask uses ['cas'], which the pattern"),
        (
            {"layout": layout_of(mask=["{case}.nii", 3])},
            "mask of layout is ['{case}.nii', 3], expected where",
        ),
        (
            {"layout": layout_of(extra_channels=["dsm"])},
            "extra_channels of layout is ['dsm'], expected names",
        ),
        ({"layout": layout_of(extra_channels={"MR": "{case}"}), "channels": ["MR"]}, "extra_channels repeats ['MR']"),
        ({"layout": layout_of(extra_channels={"dsm": "{row}.tif"})}, "extra_channels dsm uses ['row'], which"),
        ({"layout": layout_of(mask_threshold=127)}, "mask_threshold needs exactly two classes, found 3"),
        ({"use": ["CT"]}, "Unknown channel 'CT'"),
        ({"use": [1]}, "use is [1], expected a list of names"),
        (
            {"splits": {"seed": 0, "val": "0.1"}},
            "with a seed, the split val must be a fraction from 0 to 1",
        ),
        (
            {"splits": {"seed": 0, "test": 20}},
            "test of splits is 20, expected a file beside",
        ),
        ({"splits": {"train": 3}}, "train of splits is 3, expected a file beside the card"),
        ({"normalisation": {"mean": "x"}}, "mean of normalisation is 'x', expected a number, or one per channel"),
        (
            {"normalisation": {"window": [5, 1]}},
            "window of normalisation must be [low, high] with low < high, found [5, 1]",
        ),
    ],
)
def test_what_would_fail_later_is_named_at_once(tmp_path, changes, problem):
    assert problem in refused(write_card(tmp_path / "a", "hippocampus", **changes))


def test_network_sees_the_channels_that_the_card_uses(tmp_path):
    path = write_card(tmp_path / "a", "hippocampus", channels=["T1", "T2", "flair"], use=["flair", "T1"])
    card = load_card(path)
    assert (card.bands, card.seen) == (("T1", "T2", "flair"), ("flair", "T1"))
    assert card.seen == ("flair", "T1")
    assert card.using(["T2"]).seen == ("T2",)  # what the command line says comes last


def test_planes_in_words():
    assert plane_in_words("axial") == "slices to superior, rows to posterior, columns to left"
    assert plane_in_words("acquired") == (
        "slices along each volume's coarsest axis (slices to superior, rows to posterior, columns to left; or slices "
        "to posterior, rows to inferior, columns to left; or slices to right, rows to inferior, columns to posterior)"
    )


@pytest.mark.parametrize(
    ("normalisation", "measured"),
    [
        ({"foreground": True}, True),
        ({"measured": True}, True),
        ({"per_image": True}, False),
        ({"per_case": True}, False),
        ({"schemes": {"MR": "rescale_to_0_1"}}, False),
        ({"schemes": {"MR": "rgb_to_0_1"}}, True),  # its values are checked
    ],
)
def test_card_knows_whether_its_normalisation_must_be_measured(normalisation, measured):
    card = replace(load_card("hippocampus"), channels=("MR",), normalisation=CardNormalisation(**normalisation))
    assert card.is_measured is measured


def test_schemes_are_those_of_the_channels_that_the_network_sees():
    schemes = CardNormalisation(schemes={"CT": "ct", "PET": "zscore", "T1": "nonorm"})
    card = replace(load_card("hippocampus"), channels=("CT", "PET", "T1"), normalisation=schemes)
    assert [*card.using(["T1", "CT"]).schemes.items()] == [("T1", "nonorm"), ("CT", "ct")]
    assert not card.using(["T1", "PET"]).under_masks


REGIONS = {"regions": {"hippocampus": [1, 2], "head": 1}, "regions_class_order": [2, 1]}


def test_a_card_declares_regions(tmp_path):
    card = load_card(write_card(tmp_path / "card", "hippocampus", **REGIONS))
    assert card.region_infos == (Region("hippocampus", (1, 2), 2), Region("head", (1,), 1))
    assert load_card("hippocampus").region_infos == ()
    pytest.importorskip("jsonschema").validate(
        {**yaml.safe_load(find_card("hippocampus").read_text()), **REGIONS}, schema()
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"regions_class_order": ...}, "regions_class_order is missing; expected 2 mask values"),
        ({"regions": ...}, r"regions_class_order is \(2, 1\); expected 0 mask values"),
        ({"regions": {"hippocampus": [1, 2], "head": [1, 7]}}, "the region head holds 7; the mask values of classes"),
        ({"regions": {"hippocampus": [1, 2], "head": []}}, "the region head is "),
        ({"regions": {"hippocampus": [1, 2], "head": "x"}}, "regions is .*expected names of overlapping regions"),
        ({"background": None}, "with regions the first class must be the background, found background"),
    ],
)
def test_a_card_with_impossible_regions_is_refused(tmp_path, changes, problem):
    message = refused(write_card(tmp_path / "card", "hippocampus", **{**REGIONS, **changes}))
    assert re.search(rf"dataset\.yaml: {problem}", message), message
    assert "\n" not in message


def test_ids_of_one_class_stay_together(tmp_path):
    classes = [{**entry, "id": k if k else [0, 3]} for k, entry in enumerate(CLASSES)]
    classes[2]["id"] = [2, 4]
    path = write_card(tmp_path / "card", "hippocampus", classes=classes, **REGIONS)
    assert "the region hippocampus lacks 4, a mask value of posterior, of which it holds another" in refused(path)

"""Cards: the shipped ones are valid and plain, and each mistake is answered with the file and the problem."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlla_seg.data.card import find_card, load_card
from mlla_seg.data.formats.planes import plane_in_words
from mlla_seg.errors import InputError
from samples import write_card

CARDS = sorted((Path(__file__).parents[2] / "datasets").glob("*/dataset.yaml"))
CLASSES = [{"name": name, "colour": [k, k, k]} for k, name in enumerate(("background", "anterior", "posterior"))]


def types_in(value):
    yield type(value)
    if isinstance(value, (dict, list, tuple)):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from types_in(part)


def refused(path):
    with pytest.raises(InputError) as caught:
        load_card(path)
    return str(caught.value)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_shipped_card_is_found_by_name_and_its_spec_is_plain(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    card = load_card(path.parent.name)
    assert card == load_card(path)
    assert card.name == path.parent.name
    spec = card.spec()
    assert json.loads(json.dumps(spec)) == spec
    assert set(types_in(spec)) <= {dict, list, str, int, float, bool, type(None)}
    assert [entry["name"] for entry in spec["classes"]] == card.class_names
    assert spec["background"] == (None if card.background is None else card.class_names.index(card.background))


def test_card_in_the_current_folder_comes_before_the_shipped_one(tmp_path, monkeypatch):
    write_card(tmp_path / "datasets/synapse", "synapse", title="mine")
    monkeypatch.chdir(tmp_path)
    assert load_card("synapse").title == "mine"


def test_background_may_be_absent(tmp_path):
    assert load_card(write_card(tmp_path / "card", "hippocampus", background=None)).spec()["background"] is None


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
        ({"channels": []}, "channels is empty"),
        ({"classes": CLASSES[:1]}, "at least two entries, found 1"),
        ({"classes": [{"name": str(k), "colour": [0, 0, 0]} for k in range(256)]}, "at most 255 classes"),
        ({"classes": [*CLASSES, CLASSES[1]]}, "class names repeat: background, anterior, posterior, anterior"),
        ({"classes": [*CLASSES, {"name": "rest"}]}, "colour: [red, green, blue]}, found {'name': 'rest'}"),
        ({"classes": [*CLASSES, {"name": "rest", "colour": [0, 0]}]}, "colour: [red, green, blue]}, found"),
        ({"ignore_index": 2}, "ignore_index 2 is also the id of a class"),
        ({"plane": "axal"}, "'axal'. Did you mean axial?"),
        ({"largest_class": "anteror"}, "'anteror'. Did you mean anterior"),
        ({"normalisation": {"windows": [0, 1]}}, "'windows'. Did you mean window?"),
        ({"layout": {"format": "nnunet"}}, "layout needs format (files or nnunet) and tree"),
        ({"layout": {"format": "folders", "tree": "a"}}, "layout needs format (files or nnunet) and tree"),
        ({"layout": {"format": "files", "tree": "a"}}, "needs patterns"),
        ({"splits": {"tests": "a.txt"}}, "'tests'. Did you mean test?"),
        ({"splits": {"test": "a.txt"}}, "splits needs train"),
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
        ("ignore_index", None),
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
    assert [entry["id"] for entry in card.spec()["classes"]] == [0, 6, 2]
    assert load_card("hippocampus").ids == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"spacing_mm": [1, 2]}, "spacing_mm is [slices, rows, columns] in mm"),
        ({"spacing_mm": [1, 0, 1]}, "found [1, 0, 1]"),
        ({"normalisation": {"foreground": True, "mean": 3}}, "leaves no other key to normalisation"),
        ({"channels": ["a", "b"], "normalisation": {"foreground": True}}, "images of one channel"),
        ({"classes": [{"name": "a", "colour": [0, 0, 0], "id": 1}, {"name": "b", "colour": [0, 0, 1]}]}, "have one id"),
        ({"classes": [{"name": "a", "colour": [0, 0, 0]}, {"name": "b", "colour": [0, 0, 1], "id": []}]}, "of b is a"),
        ({"classes": [{"name": "a", "colour": [0, 0, 0]}, {"name": "b", "colour": [0, 0, 1], "id": "x"}]}, "'x'"),
    ],
)
def test_what_volumes_need_is_checked(tmp_path, changes, problem):
    path = write_card(tmp_path / "a", "hippocampus", **{"background": None, **changes})
    assert problem in refused(path)


def test_spacing_of_the_card_is_in_the_spec(tmp_path):
    card = load_card(write_card(tmp_path / "a", "hippocampus", spacing_mm=[None, 1.5, 1.5]))
    assert card.spec()["spacing_mm"] == [None, 1.5, 1.5]
    assert load_card("hippocampus").spec()["spacing_mm"] is None


def layout_of(**changes):
    return {"format": "files", "tree": "x", "patterns": [r"(?P<case>\w+)\.nii"], **changes}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"layout": layout_of(patterns=["(x"])}, "the pattern '(x' is no regular expression"),
        ({"layout": layout_of(patterns=["x"])}, "needs a group (?P<case>...)"),
        ({"layout": layout_of(patterns="x")}, "patterns is a list of regular expressions"),
        ({"layout": layout_of(mask="{cas}.nii")}, "mask uses ['cas'], which the pattern"),
        ({"layout": layout_of(mask=["{case}.nii", 3])}, "mask is a path below the root, found 3"),
        ({"layout": layout_of(extra_channels=["dsm"])}, "extra_channels maps names to where they lie"),
        ({"layout": layout_of(extra_channels={"MR": "{case}"}), "channels": ["MR"]}, "extra_channels repeats ['MR']"),
        ({"layout": layout_of(extra_channels={"dsm": "{row}.tif"})}, "extra_channels dsm uses ['row'], which"),
        ({"layout": layout_of(mask_threshold=127)}, "above which a pixel is of the second of two classes, found 127"),
        ({"use": ["CT"]}, "Unknown channel of hippocampus: 'CT'"),
        ({"use": [1]}, "channels are names, found"),
        ({"splits": {"seed": 0, "val": "0.1"}}, "the split val is a fraction from 0 to 1, found '0.1'"),
        ({"splits": {"seed": 0, "test": 20}}, "the split test is a fraction from 0 to 1, found 20"),
        ({"splits": {"train": 3}}, "the split train is a file with a patient a line, found 3"),
        ({"normalisation": {"mean": "x"}}, "mean of the normalisation is a number or one per channel, found 'x'"),
        ({"normalisation": {"window": [5, 1]}}, "window of the normalisation is [low, high], found [5, 1]"),
    ],
)
def test_what_would_fail_later_is_named_at_once(tmp_path, changes, problem):
    assert problem in refused(write_card(tmp_path / "a", "hippocampus", **changes))


def test_network_sees_the_channels_that_the_card_uses(tmp_path):
    path = write_card(tmp_path / "a", "hippocampus", channels=["T1", "T2", "flair"], use=["flair", "T1"])
    card = load_card(path)
    assert (card.bands, card.seen) == (("T1", "T2", "flair"), ("flair", "T1"))
    assert card.spec()["channels"] == ["flair", "T1"]
    assert card.using(["T2"]).spec()["channels"] == ["T2"]  # what the command line says comes last


def test_planes_in_words():
    assert plane_in_words("axial") == "slices to superior, rows to posterior, columns to left"
    assert plane_in_words("acquired") == (
        "slices along each volume's coarsest axis (slices to superior, rows to posterior, columns to left; or slices "
        "to posterior, rows to inferior, columns to left; or slices to right, rows to inferior, columns to posterior)"
    )

"""Names of classes, channels and data sets that are refused at the entrance, or taken."""

import json

import pytest

from hostile import NAMES, UNSEEN
from mlla_seg.data.card import load_card
from mlla_seg.data.dataset_json import read_description
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.errors import InputError
from samples import write_card

TAKEN = [name for name in NAMES if len(name) <= 200]
REFUSED = [*UNSEEN[1:], "", "  ", "x" * 255]


def classes(name):
    return [{"name": "background", "colour": [0, 0, 0]}, {"name": name, "colour": [1, 2, 3]}]


@pytest.mark.parametrize("name", TAKEN)
def test_visible_names_are_taken(tmp_path, name):
    card = load_card(write_card(tmp_path / "card", "image_folder", classes=classes(name)))
    assert card.class_names[1] == name
    assert DataSpec.from_dict({"channels": [name], "classes": ["background", name]}).class_names[1] == name


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_in_one_line(tmp_path, name):
    path = write_card(tmp_path / "card", "image_folder", classes=classes(name))
    described = tmp_path / "dataset.json"
    described.write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, name: 1}}))
    for read, source in (
        (load_card, path),
        (read_description, described),
        (DataSpec.from_dict, {"channels": ["CT"], "classes": ["background", name]}),
    ):
        with pytest.raises(InputError, match=r"is empty|cannot be seen|characters") as caught:
            read(source)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "-rf", "/etc", "a\\b", "C:x"])
def test_the_name_of_a_card_leads_to_no_other_folder(tmp_path, name):
    with pytest.raises(InputError, match="also names folders"):
        load_card(write_card(tmp_path / "card", "image_folder", name=name))


@pytest.mark.parametrize("file", ["/etc/passwd", "../../etc/passwd", "a/../../../etc/passwd"])
def test_split_lists_lie_beside_cards(tmp_path, file):
    with pytest.raises(InputError, match="must lie beside the card"):
        load_card(write_card(tmp_path / "card", "image_folder", splits={"train": file}))


def test_numbers_that_are_none_are_refused(tmp_path):
    for key, value in (("mean", float("nan")), ("std", float("inf")), ("mean", 10**400)):
        with pytest.raises(InputError, match="of normalisation is"):
            load_card(write_card(tmp_path / "card", "image_folder", normalisation={key: value}))
        (tmp_path / "card").rename(tmp_path / f"card_{key}_{value!s:.3}")


def test_two_labels_of_one_name_are_refused(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {"0": "a", "1": "a"}}))
    with pytest.raises(InputError, match="two labels have the name a"):
        read_description(path)

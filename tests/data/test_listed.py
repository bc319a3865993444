"""Lists of image and mask files with any names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlla_seg.data.card import load_card
from mlla_seg.data.layouts import find_cases
from mlla_seg.errors import InputError

SPLITS = {"csv": "pairs.csv", "image": "img", "mask": "msk", "split": "set"}


@pytest.fixture
def listed(tmp_path):
    """Write files and a list of them, and return the cases."""

    def found(text, *files, **more):
        for name in files:
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / name).touch()
        (tmp_path / "pairs.csv").write_text(text)
        card = load_card("image_folder")
        layout = replace(card.layout, format="list", patterns=(), mask=())
        return find_cases(replace(card, folder=tmp_path, layout=layout, splits={**SPLITS, **more}), tmp_path / "data")

    return found


FILES = ("a/1.png", "a/ones.png", "b/1.png", "b/two.png")


def test_pairs_of_any_name_are_cases(listed, tmp_path):
    text = "img,msk,set,who\na/1.png,a/ones.png,train,p\nb\\1.png,b/two.png,test,q\n"
    first, second = listed(text, *FILES, patient="who")
    assert (first.name, first.patient, first.split) == ("a_1", "p", "train")
    assert second.images == ((tmp_path / "data/b/1.png",),) and second.masks == (tmp_path / "data/b/two.png",)
    (first, _) = listed(text, patient="who", case="who")
    assert (first.name, first.facts) == ("p", {})
    (case,) = listed("img,h,msk,set\na/1.png,b/1.png,a/ones.png,train\n", image=["img", "h"])
    assert case.name == "1" and [path.parent.name for path in case.images[0]] == ["a", "b"]


def test_rows_that_are_left_out_are_said(listed, capsys):
    text = "img,msk,set\na/1.png,a/ones.png,train\na/1.png,a/ones.png,train\nb/1.png,,test\ngone.png,b/two.png,train\n"
    listed(text + "b/two.png,a/ones.png,train\n", *FILES)
    said = capsys.readouterr().err
    assert "1 rows" in said and "lack an entry in img or msk and are left out, such as line 4" in said
    assert "repeat another and are left out, such as line 3" in said
    assert "name files that do not exist and are left out, such as line 5" in said and "gone.png" in said
    assert "1 masks" in said and "ones.png in lines 2 and 6" in said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("img,msk,set\n../1.png,a/ones.png,train\n", r"line 2: \.\./1\.png leads outside"),
        ("img,msk,set\n/etc/passwd,a/ones.png,train\n", "line 2: /etc/passwd leads outside"),
        ("img,msk,set\na/1.png,a/ones.png,train\na/1.png,b/two.png,train\n", "line 2 and line 3 both list a/1.png"),
        ("img,msk,set\nx.png,y.png,train\n", "none of its 1 rows has an image and a mask"),
        (f"img,msk,set\n{'x' * 5000}.png,y.png,train\n", "none of its 1 rows has an image and a mask"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(listed, text, problem):
    with pytest.raises(InputError, match=problem):
        listed(text, *FILES)


def test_a_layout_of_a_list_needs_the_list():
    card = load_card("image_folder")
    with pytest.raises(ValueError, match="layout with format list needs csv, image and mask in splits"):
        replace(card, layout=replace(card.layout, format="list"))

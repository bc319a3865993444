"""What is said about files that are no cases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlla_seg.data.card import load_card
from mlla_seg.data.layouts import find_cases
from mlla_seg.errors import InputError

PAIRS = load_card("image_folder")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("images/a.nii.gz",), r"images/a\.nii\.gz    \(its suffix is \.nii\.gz, not \.png\)"),
        (("v1/images/a.png", "v1/masks/a.png"), r"v1/images/a\.png    \(it lies one folder deeper, in v1/\)"),
        (("Images/a.png",), r"Images/a\.png    \(upper and lower case differ\)"),
        (("images/a.png", "mask/a.png"), r"images/a\.png    \(its mask is missing, expected masks/a\.\*\)"),
        (("photos/a.png",), r"photos/a\.png    \(fits no pattern of the card\)"),
        (("readme.txt",), r"Found 1 file, such as:\n    readme\.txt"),
        ((), "It holds no file"),
    ],
)
def test_why_no_file_is_a_case(tmp_path, names, line):
    touch(tmp_path / "root", ".hidden", *names)
    with pytest.raises(InputError, match=rf"holds no file of the expected layout\.\n  .*(?s:.*){line}"):
        find_cases(PAIRS, tmp_path / "root")


def test_at_most_three_names_of_different_kinds_are_shown(tmp_path):
    touch(tmp_path, *(f"{folder}/{k}.png" for folder in "abcd" for k in range(3)))
    with pytest.raises(InputError) as caught:
        find_cases(PAIRS, tmp_path)
    shown = [line.split()[0] for line in str(caught.value).splitlines() if "(fits no" in line]
    assert shown == ["a/0.png", "b/0.png", "c/0.png"]


def test_the_folder_of_images_itself_is_not_the_root(tmp_path):
    touch(tmp_path, "images/a.png")
    with pytest.raises(InputError, match=r"a\.png    \(the root should be the folder above images/\)"):
        find_cases(PAIRS, tmp_path / "images")


def test_a_root_that_is_no_folder_is_said(tmp_path):
    touch(tmp_path, "data.zip")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, problem in (("data.zip", "is a file"), ("link", "is a link that leads nowhere"), ("x", "does not exist")):
        with pytest.raises(InputError, match=f"{name} {problem}"):
            find_cases(PAIRS, tmp_path / name)


def test_files_that_nearly_fit_are_said(tmp_path, capsys):
    card = replace(
        PAIRS, layout=replace(PAIRS.layout, patterns=[r"(?P<split>train|test)/(?P<case>\d)\.png"], mask="m/{case}.*")
    )
    touch(tmp_path, "train/1.png", "trian/2.png", "trian/3.png", "other/4.nii", "m/1.png", "m/2.png", "m/3.png")
    assert [case.name for case in find_cases(card, tmp_path)] == ["1"]
    said = capsys.readouterr().err
    assert "note: 2 files in" in said and "such as trian/2.png (its folder stands for no split)" in said
    assert "other/4" not in said


def test_split_folders_that_no_file_lies_in_are_said(tmp_path, capsys):
    layout = {"patterns": [r"(?P<split>tr|vl)/(?P<case>\d)\.png"], "mask": "m/{case}.*"}
    card = replace(PAIRS, layout=replace(PAIRS.layout, **layout, split_folders={"Tr": "train", "Vl": "val"}))
    touch(tmp_path, "tr/1.png", "m/1.png")
    find_cases(card, tmp_path)
    assert "lies in a split folder vl" in capsys.readouterr().err


def test_masks_without_an_image_are_those_of_the_card(tmp_path, capsys):
    card = load_card("amos_ct")
    touch(tmp_path, "imagesTr/amos_0001.nii.gz", *(f"labelsTr/amos_{n}.nii.gz" for n in ("0001", "0002", "0507")))
    find_cases(card, tmp_path)  # 0507 is an MR scan of the same download
    said = capsys.readouterr().err
    assert (
        f"note: 1 files in {tmp_path} are masks without an image and are skipped: labelsTr/amos_0002.nii.gz\n" in said
    )


def test_masks_are_no_images_without_a_mask(tmp_path, capsys):
    card = replace(PAIRS, layout=replace(PAIRS.layout, patterns=[r"(?P<case>.+)\.png"], mask="{case}_mask.png"))
    touch(tmp_path, "a.png", "a_mask.png")
    assert [case.name for case in find_cases(card, tmp_path)] == ["a"]
    assert capsys.readouterr().err == ""


def test_cases_of_several_patterns_are_said(tmp_path, capsys):
    patterns = [r"a/(?P<case>\d)\.png", r"b/(?P<case>\d)\.png"]
    card = replace(PAIRS, layout=replace(PAIRS.layout, patterns=patterns, mask="m/{case}.*"))
    touch(tmp_path, "a/1.png", "b/1.png", "b/2.png", "m/1.png", "m/2.png")
    assert [case.images[0][0].parent.name for case in find_cases(card, tmp_path)] == ["a", "b"]
    assert "1 files in" in (said := capsys.readouterr().err) and "found their cases in other files: b/1.png" in said


def test_equal_names_in_folders_are_cases_of_their_own(tmp_path):
    touch(tmp_path, *(f"{kind}/{name}.png" for kind in ("images", "masks") for name in ("a/1", "b/1")))
    assert [case.name for case in find_cases(PAIRS, tmp_path)] == ["a_1", "b_1"]
    touch(tmp_path, "images/a_1.png", "masks/a_1.png")
    with pytest.raises(InputError, match=r"images/a/1\.png: has the same place in a_1 as images/a_1\.png"):
        find_cases(PAIRS, tmp_path)

"""Files below a folder: names and links as people have them, and the work it takes to list many."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from mlla_seg.data.card import load_card
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.tree import list_tree
from mlla_seg.errors import InputError

PAIRS = load_card("image_folder")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root, card=PAIRS):
    """Names of masks by case."""
    return {case.name: case.masks[0].relative_to(root).as_posix() for case in find_cases(card, root)}


def layout(patterns, mask):
    return replace(PAIRS, layout=replace(PAIRS.layout, patterns=[patterns], mask=mask))


def test_linked_roots_folders_and_files_are_followed(tmp_path):
    touch(tmp_path / "far", "images/a/1.png", "masks/a/1.png", "2.png")
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for kind in ("images", "masks"):
        (root / kind / "a").symlink_to(tmp_path / "far" / kind / "a")
        (root / kind / "2.png").symlink_to(tmp_path / "far/2.png")
    (tmp_path / "link").symlink_to(root)
    assert found(root) == {"a_1": "masks/a/1.png", "2": "masks/2.png"}
    assert found(tmp_path / "link") == found(root)


def test_links_in_a_circle_end_and_links_to_nowhere_are_said(tmp_path, capsys):
    touch(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "images/up").symlink_to(tmp_path)
    (tmp_path / "images/b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "images/itself").symlink_to(tmp_path / "images/itself")
    assert list_tree(tmp_path).names == ["images/a.png", "masks/a.png"]
    assert found(tmp_path) == {"a": "masks/a.png"}
    said = capsys.readouterr().err
    assert f"note: 2 files in {tmp_path} are links that lead nowhere: images/b.png, images/itself" in said


def test_suffixes_ignore_case(tmp_path):
    card = load_card("geotiff_pairs")
    touch(tmp_path, "a.TIF", "a_mask.TIF", "b.tif", "b_mask.Tiff", "c.TIFF", "c_mask.tif")
    assert found(tmp_path, card) == {"a": "a_mask.TIF", "b": "b_mask.Tiff", "c": "c_mask.tif"}
    exact = layout(r"(?P<case>\w)\.(?P<kind>TIFF?|tif)", "{case}_mask.TIF")
    (tmp_path / "b_mask.Tiff").rename(tmp_path / "b_mask.tif")
    assert found(tmp_path, exact) == {"a": "a_mask.TIF", "b": "b_mask.tif", "c": "c_mask.tif"}


def test_a_star_is_one_known_suffix(tmp_path, capsys):
    touch(tmp_path / "images", "tile.png", "tile.1.png", "tile.2.PNG", "odd.png", "tile.10.png")
    touch(tmp_path / "masks", "tile.png", "tile.1.png", "tile.2.png", "tile.10.nii.gz", "odd.x.png", "tile.png.aux.xml")
    assert found(tmp_path) == {
        "tile": "masks/tile.png",
        "tile.1": "masks/tile.1.png",
        "tile.2": "masks/tile.2.png",
        "tile.10": "masks/tile.10.nii.gz",
    }
    said = capsys.readouterr().err
    assert f"note: 1 files in {tmp_path} have no mask and are skipped: images/odd.png" in said
    assert f"note: 1 files in {tmp_path} are masks without an image and are skipped: masks/odd.x.png" in said


@pytest.mark.parametrize("names", [("a.png", "a.tif"), ("a.png", "a.PNG")])
def test_two_masks_of_an_image_are_both_named(tmp_path, names):
    touch(tmp_path, "images/a.png", *(f"masks/{name}" for name in names))
    with pytest.raises(InputError) as caught:
        find_cases(PAIRS, tmp_path)
    assert all(name in str(caught.value) for name in ("images/a.png: both", *names))


def test_a_star_elsewhere_is_any_text(tmp_path):
    touch(tmp_path, "i/1.png", "i/2.png", "m/x/1_gt_v2.png", "m/y/2_gt_v3.PNG")
    card = layout(r"i/(?P<case>\d)\.png", "m/*/{case}_gt*.png")
    assert found(tmp_path, card) == {"1": "m/x/1_gt_v2.png", "2": "m/y/2_gt_v3.PNG"}


def test_an_image_is_never_its_own_mask(tmp_path):
    touch(tmp_path, "1.jpg", "1.png", "2.jpg")
    assert found(tmp_path, layout(r"(?P<case>\d)\.jpg", "{case}.*")) == {"1": "1.png"}


@pytest.mark.parametrize(
    "name",
    ["-n", "a b ", " a", "a*", "a[0]", "a?", "${x}", "$_{a}", "{case}", "a%20", "ä", "日本", "a,b", "a#1", "a\\b"],
)
def test_special_signs_in_names_of_files_and_folders(tmp_path, name):
    root = tmp_path / name
    touch(root, f"images/{name}/{name}.png", f"masks/{name}/{name}.png", "images/other.png", "masks/other.png")
    assert found(root) == {f"{name}_{name}": f"masks/{name}/{name}.png", "other": "masks/other.png"}
    card = layout(r"images/(?P<case>.+)\.png", "masks*/{case}.png")
    assert found(root, card) == found(root)


@pytest.mark.parametrize(("name", "shown"), [(b"a\nb", r"a\\nb"), (b"b\xe9ton", r"b\\xe9ton")])
def test_names_that_no_table_can_hold_are_refused(tmp_path, name, shown):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / os.fsdecode(os.fsencode(folder) + b"/" + name + b".png")).touch()
    with pytest.raises(InputError, match=rf"the name 'images/{shown}\.png' holds a line break.* Rename the file"):
        find_cases(PAIRS, tmp_path)


def test_names_too_long_for_the_cache_are_refused(tmp_path):
    folders = "/".join("a" * 100 for _ in range(3))
    touch(tmp_path, f"images/{folders}/1.png", f"masks/{folders}/1.png")
    with pytest.raises(InputError, match=r"1\.png: the name of its case, a{40}\.\.\., has more than 230 bytes"):
        find_cases(PAIRS, tmp_path)


def test_hidden_files_and_folders_are_left_out(tmp_path):
    touch(tmp_path / "images", "a.png", "._a.png", ".ipynb_checkpoints/a.png")
    touch(tmp_path / "masks", "a.png", "._a.png", ".ipynb_checkpoints/a.png")
    assert found(tmp_path) == {"a": "masks/a.png"}


def test_groups_that_are_not_there_are_empty(tmp_path):
    touch(tmp_path, "1.png", "x/2.png", "m/1.png", "x/m/2.png")
    card = layout(r"(?P<folder>x/)?(?P<case>\d)\.png", "{folder}m/{case}.png")
    assert found(tmp_path, card) == {"1": "m/1.png", "2": "x/m/2.png"}


def test_folders_are_listed_once_however_many_cases_there_are(tmp_path, monkeypatch):
    listed: list[object] = []
    counts = []
    for name in ("scandir", "listdir"):
        own = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, own=own: listed.append(args) or own(*args))
    for number in (3, 30):
        root = tmp_path / str(number)
        touch(root, *(f"{folder}/{k}.png" for folder in ("images", "masks") for k in range(number)))
        listed.clear()
        assert len(find_cases(PAIRS, root)) == number
        counts.append(len(listed))
    assert counts == [3, 3]

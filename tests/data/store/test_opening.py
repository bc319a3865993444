"""The memory-mapped store: equal to its sources, rebuilt when they change, invalid files refused."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

import layouts
from mlla_seg.data.card import load_card
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.store.opening import UnusableCases, open_store, store_folder
from mlla_seg.errors import InputError
from samples import write_array, write_nifti

HIPPOCAMPUS = load_card("hippocampus")
SYNAPSE = load_card("synapse")


@pytest.fixture
def root(tmp_path):
    """Three hippocampi of 6 slices, 14 rows and 20 columns."""
    layouts.hippocampus(tmp_path / "data", cases=3)
    return tmp_path / "data"


def build(root, card=HIPPOCAMPUS, verify=False):
    """Update and open the store beside the data."""
    return open_store(card, find_cases(load_card(card.name), root), root, root.parent / "store", verify)


def refused(root, card=HIPPOCAMPUS):
    with pytest.raises(InputError) as caught:
        build(root, card)
    return str(caught.value)


def arrays(root):
    """Inodes of the stored images by case; a case that is built again has another."""
    return {path.name.split(".")[0]: path.stat().st_ino for path in (root.parent / "store").glob("*.image.npy")}


def rebuilt(root, before):
    """Names of the cases that have been built since."""
    return {name for name, inode in arrays(root).items() if before[name] != inode}


def edit(path, change):
    """Rewrite a NIfTI file with its array changed."""
    image = nib.load(path)
    write_nifti(path, change(np.array(image.dataobj)), image.affine)


def with_value(value, dtype=None):
    """Change the first three voxels of an array."""

    def change(array):
        array = array.astype(dtype or array.dtype)
        array[:3, 0, 0] = value
        return array

    return change


def test_arrays_equal_the_volumes(root):
    stored = build(root)
    assert [case.name for case in stored] == ["hippocampus_000", "hippocampus_001", "hippocampus_002"]
    for case in stored:
        image, mask = (
            nib.load(root / f"{folder}/{case.name}.nii.gz").get_fdata() for folder in ("imagesTr", "labelsTr")
        )
        axial = np.s_[::-1, ::-1, :]  # stored along R, A, S; shown with rows to the back and columns to the left
        np.testing.assert_array_equal(case.image(), image[axial].transpose(2, 1, 0)[:, None].astype(np.float32))
        np.testing.assert_array_equal(case.mask(), mask[axial].transpose(2, 1, 0))
        assert case.shape == case.image().shape == (6, 1, 14, 20)
        assert case.mask().dtype == np.uint8
        assert case.voxels == tuple(np.bincount(case.mask().ravel(), minlength=3))
        assert case.spacing_mm == (1.0, 1.0, 1.0)
        assert isinstance(case.image(), np.memmap)


def test_arrays_equal_the_slices_in_units(tmp_path):
    layouts.synapse(tmp_path / "data")
    case = next(case for case in build(tmp_path / "data", SYNAPSE) if case.name == "case0005")
    for position in range(2):
        with np.load(tmp_path / f"data/train_npz/case0005_slice{position:03d}.npz") as source:
            np.testing.assert_allclose(case.image()[position, 0], source["image"] * 400 - 125, rtol=1e-6)
            np.testing.assert_array_equal(case.mask()[position], source["label"])
    assert case.shape == (2, 1, 32, 32)
    assert case.spacing_mm is None


def test_second_build_writes_nothing(root):
    build(root)
    before = arrays(root)
    build(root)
    assert rebuilt(root, before) == set()


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_case_whose_source_changed_is_built_again_alone(root, folder):
    build(root)
    before = arrays(root)
    edit(root / folder / "hippocampus_001.nii.gz", with_value(1))
    case = build(root)[1]
    assert rebuilt(root, before) == {"hippocampus_001"}
    array = case.image() if folder == "imagesTr" else case.mask()
    assert (array.reshape(6, 14, 20)[0, -1, -3:] == 1).all()


def test_case_whose_source_was_only_touched_is_kept(root, capsys):
    build(root)
    before = arrays(root)
    os.utime(root / "labelsTr/hippocampus_002.nii.gz", (1e9, 1e9))
    build(root)
    assert rebuilt(root, before) == set()
    assert "note" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"plane": "coronal"}, True),
        ({"plane": "acquired"}, True),
        ({"classes": (*HIPPOCAMPUS.classes, {"name": "rest", "colour": [9, 9, 9]})}, True),
        ({"ignore_index": 254}, True),
        ({"array_units": {"scale": 2, "offset": 0}}, True),
        ({"title": "another"}, False),
        ({"normalisation": {"mean": 1, "std": 2}}, False),
        ({"normalisation": {"per_case": True}}, True),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_cases_are_built_again_when_the_card_changes_how_they_are_read(root, change, again):
    build(root)
    before = arrays(root)
    case = build(root, replace(HIPPOCAMPUS, **change))[0]
    assert len(rebuilt(root, before)) == (3 if again else 0)
    assert case.shape == ((14, 1, 6, 20) if change.get("plane") == "coronal" else (6, 1, 14, 20))


@pytest.mark.parametrize("damage", ["stray file", "no JSON", "cut JSON", "no image", "no mask"])
def test_build_that_was_cut_off_is_repaired(root, damage):
    expected = np.array(build(root)[1].image())
    stem = root.parent / "store/hippocampus_001"
    match damage:
        case "stray file":
            stem.with_name(".123.hippocampus_001.image.npy").write_bytes(b"half of it")
            stem.with_suffix(".json").unlink()
        case "no JSON":
            stem.with_suffix(".json").unlink()
        case "cut JSON":
            stem.with_suffix(".json").write_text('{"fingerprint": ')
        case _:
            stem.with_suffix(f".{damage.split()[1]}.npy").unlink()
    case = build(root)[1]
    np.testing.assert_array_equal(case.image(), expected)
    assert case.mask().shape == (6, 14, 20)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (with_value(7), "mask value 7 in 3 voxels; expected 0 to 2 (background, anterior, posterior) or 255 (ignored)"),
        (with_value([3, 4, 5]), "mask value 3 in 1 voxels and 2 other such values; expected 0 to 2"),
        (with_value(-1, np.int16), "mask value -1 in 3 voxels; expected 0 to 2"),
        (with_value(0.5, np.float32), "mask value 0.5 in 3 voxels; expected 0 to 2"),
        (with_value(np.nan, np.float32), "mask value nan in 3 voxels; expected 0 to 2"),
        (lambda mask: mask[:, 1:], "shape (6, 13, 20) differs from hippocampus_001.nii.gz with (6, 14, 20)"),
        (lambda mask: np.stack([mask, mask, 0 * mask], axis=3), "channels"),
    ],
    ids=["value", "values", "negative", "fraction", "nan", "shape", "colours"],
)
def test_mask_that_is_wrong_is_named(root, change, problem):
    path = root / "labelsTr/hippocampus_001.nii.gz"
    edit(path, change)
    message = refused(root)
    assert message.startswith(f"{path}: ")
    assert problem in message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (with_value(np.nan), "3 of 1680 values are NaN or infinite"),
        (with_value([np.inf, -np.inf, 0]), "2 of 1680 values are NaN or infinite"),
        (lambda image: np.stack([image, image], axis=3), "has 2 channels, the card hippocampus expects 1 (MR)"),
    ],
    ids=["nan", "infinite", "channels"],
)
def test_image_that_is_wrong_is_named(root, change, problem):
    path = root / "imagesTr/hippocampus_001.nii.gz"
    edit(path, change)
    message = refused(root)
    assert message.startswith(f"{path}: ")
    assert problem in message


def test_mask_must_lie_where_its_image_lies(root):
    path = root / "labelsTr/hippocampus_001.nii.gz"
    mask = np.array(nib.load(path).dataobj)
    write_nifti(path, mask, np.eye(4) + 1e-8)
    build(root)
    shifted = np.eye(4)
    shifted[1, 3] = 2.5
    write_nifti(path, mask, shifted)
    message = refused(root)
    assert message.startswith(f"{path}: its affine differs from hippocampus_001.nii.gz by up to 2.5 mm. Resample")


@pytest.mark.parametrize(
    ("key", "change", "problem"),
    [
        ("image", lambda image: image + np.nan, "NaN"),
        ("image", lambda image: image[1:], "shape"),
        ("label", lambda label: label[1:], "shape"),
        ("label", lambda label: label + 9, "mask value 9"),
    ],
)
def test_slice_that_is_wrong_is_named(tmp_path, key, change, problem):
    layouts.synapse(tmp_path / "data")
    path = tmp_path / "data/train_npz/case0005_slice001.npz"
    with np.load(path) as source:
        arrays = dict(source)
    write_array(path, **{**arrays, key: change(arrays[key])})
    message = refused(tmp_path / "data", SYNAPSE)
    assert message.startswith(f"{path}: ")
    assert problem in message


def test_bad_cases_are_listed_up_to_five_and_good_ones_stored(tmp_path):
    root = tmp_path / "data"
    layouts.hippocampus(root, cases=8)
    for k in range(1, 8):
        edit(root / f"labelsTr/hippocampus_00{k}.nii.gz", with_value(7))
    lines = refused(root).splitlines()
    assert lines[0] == "7 of 8 cases cannot be used:"
    assert [f"hippocampus_00{k}.nii.gz" in lines[k] for k in range(1, 6)] == [True] * 5
    assert lines[6:] == ["... and 2 more"]
    good, *bad = find_cases(HIPPOCAMPUS, root)
    with pytest.raises(UnusableCases) as refusal:
        open_store(HIPPOCAMPUS, [good, *bad], root, tmp_path / "store")
    assert [*refusal.value.opened] == [good.name]
    assert [*refusal.value.problems] == [case.name for case in bad]
    with pytest.raises(UnusableCases, match=r"^7 of 8 cases"):  # also when the good one is stored
        open_store(HIPPOCAMPUS, [good, *bad], root, tmp_path / "store")
    good = [good]
    assert open_store(HIPPOCAMPUS, good, root, tmp_path / "store")[0].mask().shape == (6, 14, 20)


@pytest.mark.parametrize(("ignore_index", "dtype"), [(255, np.uint8), (3, np.uint8), (-1, np.int16)])
def test_ignored_voxels_are_stored_as_255_and_not_counted(root, ignore_index, dtype):
    before = build(root)[1]
    edit(root / "labelsTr/hippocampus_001.nii.gz", with_value(ignore_index, dtype))
    after = build(root, replace(HIPPOCAMPUS, ignore_index=ignore_index))[1]
    assert (after.mask()[0, -1, -3:] == 255).all()
    assert (after.mask() == 255).sum() == 3
    assert sum(after.voxels) == sum(before.voxels) - 3
    assert len(after.voxels) == 3


def test_json_says_what_was_built(root):
    case = build(root)[0]
    entry = json.loads((root.parent / "store" / f"{case.name}.json").read_text())["entry"]
    assert tuple(entry["shape"]) == case.shape
    assert tuple(entry["voxels"]) == case.voxels
    assert [file["name"] for file in entry["sources"]["opened"]] == [
        f"{folder}/{case.name}.nii.gz" for folder in ("imagesTr", "labelsTr")
    ]


def test_copies_of_data_and_store_are_compared_and_not_built_again(root, capsys):
    first = build(root)
    for copy in (shutil.copy, shutil.copy2):
        moved = root.parent / copy.__name__
        shutil.copytree(root, moved / "data", copy_function=copy)
        shutil.copytree(root.parent / "store", moved / "store", copy_function=copy)
        before = arrays(moved / "data")
        again = build(moved / "data")
        assert rebuilt(moved / "data", before) == set()
        np.testing.assert_array_equal(again[0].image(), first[0].image())
    assert "note" not in capsys.readouterr().err


def test_reasons_are_said_with_count_and_one_name(root, capsys):
    build(root)
    assert "note" not in capsys.readouterr().err
    build(root, replace(HIPPOCAMPUS, plane="coronal"))
    note = (
        "note: 3 cases of hippocampus are built again, as the card reads cases in another way, such as hippocampus_000"
    )
    assert note in capsys.readouterr().err
    edit(root / "labelsTr/hippocampus_001.nii.gz", with_value(1))
    build(root, replace(HIPPOCAMPUS, plane="coronal"))
    note = "note: 1 case of hippocampus is built again, as files have changed, such as labelsTr/hippocampus_001.nii.gz"
    assert note in capsys.readouterr().err


def test_cards_that_read_images_in_another_way_have_a_store_of_their_own(root, capsys):
    coronal, cache = replace(HIPPOCAMPUS, plane="coronal"), root.parent / "cache"
    folders = [store_folder(cache, card, root) for card in (HIPPOCAMPUS, coronal)]
    assert folders[0] != folders[1] == store_folder(cache, replace(coronal, title="another"), root)
    first, _ = (
        open_store(card, find_cases(card, root), root, folder)
        for card, folder in zip((HIPPOCAMPUS, coronal), folders, strict=True)
    )
    first[0].image()  # is still there
    assert f"{folders[1]} is built beside {folders[0].name}, which holds the same images" in capsys.readouterr().err


def test_store_of_another_user_is_read_without_a_lock(root, monkeypatch):
    expected = np.array(build(root)[0].image())
    os.utime(root / "labelsTr/hippocampus_002.nii.gz", (1e9, 1e9))  # so that contents are compared

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mlla_seg.data.store.opening.hold", refuse)
    monkeypatch.setattr("mlla_seg.data.store.opening.write_entry", refuse)
    np.testing.assert_array_equal(build(root)[0].image(), expected)


def test_array_that_another_process_replaced_is_not_read(root):
    case = build(root)[0]
    build(root, replace(HIPPOCAMPUS, plane="coronal"))
    with pytest.raises(InputError, match=r"hippocampus_000\.image\.npy: another process has replaced or removed"):
        case.image()

"""The phantom: TransUNet's file layout, reproducible from a seed, organ sizes in the expected order."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from mlla_seg.data.card import load_card
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.splits import split_cases
from mlla_seg.data.synthetic import ORGANS, phantom, phantom_volume, write_synapse_layout
from mlla_seg.errors import InputError


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_files_are_those_of_transunet(tmp_path):
    write_synapse_layout(tmp_path, [5, 12], [1], slices=2, size=24)
    files = files_below(tmp_path)
    slices = [f"train_npz/case{case:04d}_slice{i:03d}.npz" for case in (5, 12) for i in range(2)]
    assert set(files) == {*slices, "test_vol_h5/case0001.npy.h5"}
    for name in slices:
        with np.load(files[name]) as arrays:
            check_arrays(dict(arrays), (24, 24), np.float32)
    with h5py.File(files["test_vol_h5/case0001.npy.h5"]) as file:
        check_arrays({key: file[key][()] for key in file}, (2, 24, 24), np.uint8)


def check_arrays(arrays, shape, label_dtype):
    assert set(arrays) == {"image", "label"}
    assert arrays["image"].shape == arrays["label"].shape == shape
    assert (arrays["image"].dtype, arrays["label"].dtype) == (np.float32, label_dtype)
    assert 0 == arrays["image"].min() < arrays["image"].max() <= 1  # air is far below the window
    assert set(np.unique(arrays["label"])) <= set(range(9))


def test_seed_decides_every_byte_and_patients_differ(tmp_path):
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_synapse_layout(tmp_path / folder, [5, 6], [1], slices=2, size=24, seed=seed)
    a, b, c = (
        {name: path.read_bytes() for name, path in files_below(tmp_path / folder).items()} for folder in ("a", "b", "c")
    )
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a)
    assert a["train_npz/case0005_slice000.npz"] != a["train_npz/case0006_slice000.npz"]


@pytest.mark.parametrize("seed", range(1, 17))
def test_phantom_has_all_organs_and_the_liver_is_the_largest(seed):
    image, label = phantom_volume(slices=16, size=96, seed=seed)  # as the patients of the shipped card
    voxels = np.bincount(label.ravel(), minlength=9)
    assert len(voxels) == 9
    assert (voxels > 0).all()
    assert list(ORGANS)[voxels[1:].argmax()] == "liver"
    assert (image.dtype, label.dtype) == (np.float32, np.uint8)
    for k, (name, (hu, _, _)) in enumerate(ORGANS.items(), start=1):
        assert np.median(image[label == k]) == pytest.approx(hu, abs=60), name


def test_ids_are_those_of_the_cards():
    for name in ("phantom", "synapse"):
        assert load_card(name).class_names == ["background", *ORGANS]


@pytest.mark.parametrize(("train", "test"), [(2, 4), (13, 4), (3, 0), (3, 5), (-1, 1)])
def test_numbers_that_the_card_does_not_have_are_refused(tmp_path, train, test):
    with pytest.raises(InputError, match=f"3 to 12 training and 1 to 4 test volumes, got {train} and {test}"):
        phantom(str(tmp_path / "out"), train, test)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("train", "test"), [(3, 1), (12, 4)])
def test_phantom_fills_the_splits_of_its_card(tmp_path, capsys, train, test):
    phantom(str(tmp_path / "out"), train, test, slices=2, size=24)
    assert f"{train} training and {test} test volumes of 2 x 24 x 24 voxels in " in capsys.readouterr().out
    card = load_card("phantom")
    splits = split_cases(card, find_cases(card, tmp_path / "out"))
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [train - 2, 2, test]

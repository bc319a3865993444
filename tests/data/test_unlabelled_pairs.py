"""Training samples paired with unlabelled ones: which of these come, in what views, and where they have data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layouts import hippocampus
from mlla_seg import SegmentationDataModule
from mlla_seg.data.pseudonyms import known_patients
from mlla_seg.errors import InputError
from samples import write_nifti


def folder_of_images(tmp_path, count=3, prefix="new"):
    """Volumes of three slices, each with values of its own."""
    folder = tmp_path / "more"
    folder.mkdir(exist_ok=True)
    for k in range(count):
        volume = np.random.default_rng(k).random((20, 14, 3)).astype(np.float32) * 700
        write_nifti(folder / f"{prefix}_{k}.nii.gz", volume)
    return folder


def module(tmp_path, **options):
    if not (tmp_path / "data").exists():
        hippocampus(tmp_path / "data")
    given = {"card": "hippocampus", "root": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache")}
    given |= {"unlabelled": str(tmp_path / "more"), "crop": [16, 16], "num_workers": 0, "batch_size": 2}
    return SegmentationDataModule(**{**given, "intensity": 0.8, "seed": 3, **options})


def pairs_of(tmp_path, **options):
    data = module(tmp_path, **options)
    data.prepare_data()
    data.setup("fit")
    return data.pairs


def test_unlabelled_samples_take_turns_and_come_in_two_views(tmp_path):
    folder_of_images(tmp_path)
    pairs = pairs_of(tmp_path)
    count, length = len(pairs.unlabelled), len(pairs)
    assert count == 9
    keys = [divmod(number, length) for number in range(2 * count)]
    drawn = [pairs[key]["unlabelled"] for key in keys]
    for turn in (0, 1):
        samples = drawn[turn * count : (turn + 1) * count]
        assert len({sample["plain"].mean().item() for sample in samples}) == count  # each slice once
    names = [[sample["name"] for sample in drawn[k * count : (k + 1) * count]] for k in (0, 1)]
    assert sorted(names[0]) == sorted(names[1]) == ["new_0"] * 3 + ["new_1"] * 3 + ["new_2"] * 3
    assert names[0] != names[1]
    assert np.mean([not torch.equal(sample["image"], sample["plain"]) for sample in drawn]) > 0.5
    for key in keys[::5]:
        sample, again = pairs[key], pairs[key]
        assert torch.equal(sample["image"], pairs.labelled[key]["image"])
        assert all(torch.equal(sample["unlabelled"][k], again["unlabelled"][k]) for k in ("image", "plain", "valid"))


def test_padding_is_not_compared(tmp_path):
    folder_of_images(tmp_path)
    sample = pairs_of(tmp_path, augment="none", crop=[32, 32])[0, 0]["unlabelled"]
    assert sample["valid"].sum() == 20 * 14
    assert sample["valid"].dtype == torch.bool


def test_patches_of_volumes_are_paired_too(tmp_path):
    folder_of_images(tmp_path)
    sample = pairs_of(tmp_path, crop=[8, 16, 16], balance=0.5)[0, 0]
    assert sample["unlabelled"]["plain"].shape == sample["image"].shape == (1, 8, 16, 16)
    assert sample["unlabelled"]["valid"].shape == (8, 16, 16)
    assert sample["unlabelled"]["valid"].sum() <= 3 * 16 * 16  # slices of the volume


def test_no_image_of_validation_and_test_is_taken_and_a_checkpoint_knows_the_others(tmp_path, capsys):
    folder = folder_of_images(tmp_path, 2)
    data = module(tmp_path)
    held, train = [*data.splits.val, *data.splits.test], data.splits.train
    (folder / "renamed.nii.gz").write_bytes(held[0].images[0][0].read_bytes())
    (folder / "again.nii.gz").symlink_to(train[0].images[0][0])
    data = module(tmp_path)
    assert [case.name for case in data.further] == ["new_0", "new_1"]
    said = capsys.readouterr().err
    assert f"note: 1 of 4 images in {folder}, such as renamed, are of held-out or excluded cases and are left" in said
    assert f"note: 1 of 4 images in {folder}, such as again, are in the training split already." in said
    assert known_patients(["new_0", "new_1", held[0].patient], data.state_dict()) == ["new_0", "new_1"]


def test_what_does_not_go_together_is_refused(tmp_path):
    folder_of_images(tmp_path, 0)
    with pytest.raises(InputError, match=r"--data.unlabelled needs --data.intensity above 0, such as 0.5"):
        module(tmp_path, intensity=0.0)
    (tmp_path / "more/again.nii.gz").symlink_to(module(tmp_path).splits.train[0].images[0][0])
    with pytest.raises(InputError, match=r"--data.unlabelled: .*more has no image that may be trained on"):
        module(tmp_path).setup("fit")

"""Options of the data module for patches of volumes: a crop of three numbers."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.patches import PatchDataset
from mlla_seg.errors import InputError
from mlla_seg.models.checkpoint import network_axes

CARD = """
name: mine
title: Mine
modality: MR
channels: [MR]
classes: [{name: background, colour: [0, 0, 0]}, {name: lesion, colour: [200, 0, 0]}]
normalisation: {per_image: true}
layout: {format: files, patterns: ['images/(?P<case>p.)\\.nii'], mask: 'masks/{case}.nii', tree: 'images/ masks/'}
splits: {seed: 0, val: 0.2, test: 0.2}
source: none
licence: none
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(CARD)
    for n in range(5):
        mask = (np.random.default_rng(n).random((16, 12, 6 + n)) > 0.6).astype(np.uint8)
        for kind, array in (("images", mask * np.int16(10 + n)), ("masks", mask)):
            (tmp_path / kind).mkdir(exist_ok=True)
            nib.Nifti1Image(array, np.diag([1.5, 1.0, 4.0 + n, 1.0])).to_filename(tmp_path / kind / f"p{n}.nii")
    return str(tmp_path)


def module(root, **how):
    data = SegmentationDataModule("mine.yaml", root, **{"crop": [8, 16, 16], "batch_size": 2, "num_workers": 0, **how})
    data.prepare_data()
    data.setup("fit")
    return data


def test_volumes_are_seen_at_their_median_spacing_and_standardised_as_a_whole(root):
    data = module(root, intensity=0.5, balance=0.25, mirror=["slices"], augment="anatomy", seed=3)
    train, spec = data.train_set, data.spec
    assert isinstance(train, PatchDataset)
    assert (spec.axes, spec.patch_size, spec.spacing_mm) == (3, (8, 16, 16), (6.0, 1.0, 1.5))
    assert spec.normalisation.per_case is True
    assert DataSpec.from_dict(spec.to_dict()) == spec
    assert (train.balance, train.seed, train.augment.intensity, train.augment.mirror) == (0.25, 3, 0.5, [0])
    assert train.augment.moves
    assert train.augment.spacing.tolist() == [6.0, 1.0, 1.5]
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 1, 8, 16, 16)
    assert batch["mask"].shape == (2, 8, 16, 16)
    assert spec.mirrored == ("slices",)
    assert module(root, mirror=["columns", "rows"]).spec.mirrored == ("rows", "columns")


def test_a_spacing_that_is_given_stays(root):
    data = module(root, spacing_mm=[2.0, "median", 1.0], augment="none")
    assert data.spec.spacing_mm == (2.0, 1.0, 1.0)
    assert not data.train_set.augment.moves


def test_axes_that_a_card_keeps_are_resampled_to_their_median(root, tmp_path):
    (tmp_path / "mine.yaml").write_text(CARD + "spacing_mm: [null, median, 2]\n")
    assert module(root).spec.spacing_mm == (6.0, 1.0, 2.0)


@pytest.mark.parametrize("crop", [None, [24, 24]])
def test_patches_are_chosen_from_the_median_volume(root, capsys, crop):
    data = module(root, dims=3, crop=crop)
    assert data.spec.patch_size == (8, 12, 16)  # of 8 x 12 x 16 voxels at the median spacing
    assert data.train_set[0]["mask"].shape == (8, 12, 16)
    said = capsys.readouterr().err
    assert "patches of 8 x 12 x 16 voxels (slices, rows, columns), chosen from the median volume of 8 x 12 x 16" in said
    assert " at 6 x 1 x 1.5 mm; --data.crop sets another size" in said
    module(root, dims=3)
    assert "chosen" not in capsys.readouterr().err


@pytest.mark.parametrize("known", [True, False])
def test_networks_of_thick_slices_halve_them_last(root, tmp_path, capsys, known):
    for n in range(5):
        mask = (np.random.default_rng(n).random((64, 60, 10)) > 0.6).astype(np.uint8)
        if known:
            for kind, array in (("images", mask * np.int16(10 + n)), ("masks", mask)):
                nib.Nifti1Image(array, np.diag([1.5, 1.5, 10.0, 1.0])).to_filename(tmp_path / kind / f"p{n}.nii")
        else:
            np.savez(tmp_path / f"p{n}.npz", image=mask.T * np.int16(10 + n), label=mask.T)
    if not known:  # arrays tell no spacing
        pattern = "patterns: ['images/(?P<case>p.)\\.nii'], mask: 'masks/{case}.nii', tree: 'images/ masks/'"
        assert pattern in CARD
        (tmp_path / "mine.yaml").write_text(CARD.replace(pattern, "patterns: ['(?P<case>p.)\\.npz'], tree: npz"))
    spec = module(root, dims=3, crop=None).spec
    strides = network_axes(spec, None)["strides"]
    assert spec.patch_size == (10, 64, 64)
    assert [step[1:] for step in strides] == [[2, 2]] * 4 + [[1, 1]]
    assert [step[0] for step in strides] == [1, 1, 2, 1, 1]
    said = "no file gives the spacing of its voxels, such as that of p0; slices are assumed to be 6.4 times as far"
    assert (said in capsys.readouterr().err) == (not known)


def test_patches_of_many_at_once_are_smaller(root, monkeypatch, capsys):
    monkeypatch.setattr("mlla_seg.data.patch_choice.VOXELS", 1000)
    assert math.prod(module(root, dims=3, crop=None, batch_size=2).spec.patch_size) <= 500
    assert "cut so that 2 patches have" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"crop": [4, 8, 8, 8]}, r"takes two numbers, \[height, width\], or three, \[slices, height, width\]"),
        (
            {"context": 1},
            r"--data\.crop \[8, 16, 16\] makes .* but --data\.context is for slices: set",
        ),
        (
            {"resize": 2.0, "elastic": 2.0, "augment": "transunet", "dims": 3},
            r"--model\.dims 3 makes .* but --data\.resize and --data\.elastic and --data\.augment are for slices: "
            r"set --data\.resize null --data\.elastic 0 --data\.augment anatomy\. .* by --data\.spacing_mm",
        ),
        ({"spacing_mm": [None, 1.0, 1.0]}, r"keeps an axis, but volumes as volumes need one spacing along each"),
        ({"dims": 2}, r"--model\.dims 2 makes a network of slices, but --data\.crop \[8, 16, 16\] makes patches"),
        ({"dims": 4}, r"--model\.dims is 2 for slices or 3 for volumes, got 4"),
        ({"crop": [16, 16], "mirror": ["slices"]}, "mirror axis 'slices'"),
    ],
)
def test_what_does_not_go_together_is_refused(root, how, message):
    with pytest.raises(InputError, match=message):
        module(root, **how)

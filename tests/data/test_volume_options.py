"""Options of the data module for patches of volumes: a crop of three numbers."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.patches import PatchDataset
from mlla_seg.errors import InputError

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
    assert not spec.mirrored
    assert module(root, mirror=["rows", "columns"]).spec.mirrored


def test_a_spacing_that_is_given_stays(root):
    data = module(root, spacing_mm=[2.0, None, 1.0], augment="none")
    assert data.spec.spacing_mm == (2.0, None, 1.0)
    assert not data.train_set.augment.moves


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"crop": [4, 8, 8, 8]},
            r"takes two numbers, \[height, width\], or three, \[slices, height, width\]",
        ),
        ({"context": 1}, r"--data\.context 1 is for slices, but --data\.crop \[8, 16, 16\] makes patches of volumes"),
        ({"resize": 2.0}, r"--data\.resize 2\.0 is for slices.*use --data\.spacing_mm"),
        ({"elastic": 2.0}, r"--data\.elastic 2\.0 is for slices"),
        ({"augment": "transunet"}, r"--data\.augment transunet is for images"),
        ({"crop": [16, 16], "mirror": ["slices"]}, "mirror axis 'slices'"),
    ],
)
def test_what_does_not_go_together_is_refused(root, how, message):
    with pytest.raises(InputError, match=message):
        module(root, **how)

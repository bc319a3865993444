"""A folder of nnU-Net with overlapping regions: trained, scored, predicted and exported by the commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch

from conftest import ROOT, TINY
from mlla_seg import Predictor, SegmentationModule
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.errors import InputError
from samples import write_nifti

LABELS = {"background": 0, "whole": [1, 2, 4], "core": [2, 4], "enhancing": 4}


def write_tumours(root, labels=None, order=(1, 2, 4)):
    """Discs in discs, with ids 1, 2 and 4 from outside to inside; id 2 is as dark as the background."""
    random = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    y, x = np.mgrid[:32, :32]
    for n in range(10):
        radius = np.hypot(y - random.uniform(12, 20), x - random.uniform(12, 20))
        mask = np.select([radius < 4, radius < 7, radius < 11], [4, 2, 1], 0).astype(np.uint8)[..., None].repeat(4, -1)
        image = np.array([0, 60, 0, 0, 120])[mask] + random.normal(0, 8, mask.shape)
        affine = np.diag([1.0, 1.0, 3.0, 1.0])
        write_nifti(root / f"imagesTr/case{n}_0000.nii.gz", image.astype(np.float32), affine)
        write_nifti(root / f"labelsTr/case{n}.nii.gz", mask, affine)
    content = {"channel_names": {"0": "MR"}, "labels": labels or LABELS, "regions_class_order": list(order)}
    (root / "dataset.json").write_text(json.dumps({"name": "Tumours", **content}))
    return root


def of(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_regions_are_learned_and_written_with_their_labels(cli, capsys, tmp_path):
    root = write_tumours(tmp_path / "data")
    options = ["--config", ROOT / "configs/nnunet.yaml", f"--data.root={root}", "--data.crop=[32,32]", *TINY]
    options += ["--trainer.precision=32-true"]
    cli("fit", *options, "--model.lr=4e-3", "--trainer.max_epochs=24")
    checkpoint = Path("runs/nnunet/version_0/checkpoints/last.ckpt")
    spec = Predictor.from_checkpoint(checkpoint).spec
    assert spec.output_names == ["whole", "core", "enhancing"]
    assert spec.class_names == ["background", "whole only", "core only", "enhancing"]

    capsys.readouterr()
    cli("test", *options, "--ckpt_path", checkpoint)
    table = capsys.readouterr().out
    assert "region" in table
    assert "whole only" not in table
    with Path("runs/nnunet/version_1/per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3
    cli("predict", "--ckpt_path", checkpoint, "--input", root / "imagesTr", "--output", "masks", "--probabilities=true")
    said = capsys.readouterr().out
    assert "Values: 0 background, 1 whole only, 2 core only, 4 enhancing" in said
    assert "Regions: whole 1+2+4, core 2+4, enhancing 4" in said
    for row in rows:  # scored on what predict writes, as nnU-Net scores regions
        found, true = of(f"masks/{row['case']}.nii.gz"), of(root / f"labelsTr/{row['case']}.nii.gz")
        assert set(np.unique(found)) == {0, 1, 2, 4}
        inside, there = (np.isin(mask, LABELS[row["class"]]) for mask in (found, true))
        dice = 2 * (inside & there).sum() / (inside.sum() + there.sum())
        assert float(row["dice"]) == pytest.approx(dice)
        assert dice > {"whole": 0.8, "core": 0.7, "enhancing": 0.7}[row["class"]]

    with h5py.File("masks/case0.probabilities.h5") as file:
        stored = file["probabilities"][...].astype(np.float32)
        assert list(file["probabilities"].attrs["classes"]) == ["whole", "core", "enhancing"]
    mask = of("masks/case0.nii.gz")
    written = np.select([stored[2] > 0.5, stored[1] > 0.5, stored[0] > 0.5], [4, 2, 1], 0)
    np.testing.assert_allclose(np.bincount(written.ravel()), np.bincount(mask.ravel()), atol=3)  # stored as float16

    cli("predict", "--ckpt_path", checkpoint, checkpoint, "--input", root / "imagesTr", "--output", "twice")
    assert (of("twice/case0.nii.gz") == mask).mean() > 0.999
    cli("export", "--ckpt_path", checkpoint, "--format=torchscript", "--outputs=labels", "--output=m.ts")
    image = torch.from_numpy(of(root / "imagesTr/case0_0000.nii.gz")[..., 0])[None, None]
    alone = (image - image.mean()) / image.std(correction=0)  # z-scores of cases are left to the caller of such files
    labels = torch.jit.load("m.ts")(alone)
    torch.testing.assert_close(labels, torch.from_numpy(Predictor.from_checkpoint(checkpoint)(image.numpy())))


def test_weights_are_one_per_region(tmp_path):
    data = SegmentationDataModule(root=str(write_tumours(tmp_path / "data")), crop=[32, 32], cache_dir=str(tmp_path))
    module = SegmentationModule("mlla_test", spec=data.spec, decoder_depths=[1, 1, 1], class_weights=[1.0, 2.0, 3.0])
    assert module.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 3, 32, 32)
    with pytest.raises(InputError, match="class_weights has 4 entries for 3 regions: whole, core, enhancing"):
        SegmentationModule("mlla_test", spec=data.spec, class_weights=[1.0, 1.0, 2.0, 3.0])


def test_classes_that_are_written_as_others_are_said(tmp_path, capsys):
    labels = {"background": 0, "outer": [1, 2], "inner": [2, 4]}
    root = write_tumours(tmp_path / "data", labels, (1, 4))
    data = SegmentationDataModule(root=str(root), crop=[32, 32], cache_dir=str(tmp_path))
    data.prepare_data()
    said = "note: by regions_class_order of tumours masks are written with outer and inner only as inner only."
    assert said in capsys.readouterr().err
    data = SegmentationDataModule(root=str(write_tumours(tmp_path / "b")), crop=[32, 32], cache_dir=str(tmp_path))
    data.prepare_data()
    assert "regions_class_order" not in capsys.readouterr().err

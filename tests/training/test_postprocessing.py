"""Post-processing chosen by ``validate``, stored in a copy of the checkpoint, and applied by every command alike."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from conftest import ROOT, TINY
from jobs import Pixelwise, spec_of
from mlla_seg import Predictor
from mlla_seg.data.postprocessing import Step, applied
from mlla_seg.errors import InputError
from mlla_seg.export.exportable import Job
from mlla_seg.export.onnx import write_onnx
from mlla_seg.models.checkpoint import read_checkpoint
from mlla_seg.runtime import Segmenter
from mlla_seg.training.saving import DurableCheckpointIO

STEPS = (*(Step("keep_largest", (k,)) for k in range(1, 9)), Step("fill_holes", (5,)))


@pytest.fixture
def options(phantom_root):
    return ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]


def copied(checkpoint, path, postprocessing):
    """Write a copy of a checkpoint with a random head, which finds specks of all classes, and post-processing."""
    content = read_checkpoint(checkpoint)
    spec = replace(Predictor.from_checkpoint(checkpoint).spec, postprocessing=postprocessing)
    content["hyper_parameters"]["spec"] = spec.to_dict()
    head = content["state_dict"]["network.head.weight"]
    content["state_dict"]["network.head.weight"] = torch.randn(head.shape, generator=torch.Generator().manual_seed(0))
    DurableCheckpointIO().save_checkpoint(content, path)
    return path


@pytest.fixture
def speckled(checkpoint, tmp_path):
    return copied(checkpoint, tmp_path / "speckled.ckpt", ())


@pytest.fixture
def cleaned(checkpoint, tmp_path):
    return copied(checkpoint, tmp_path / "cleaned.ckpt", STEPS)


def masks_in(folder):
    found = {}
    for path in sorted(Path(folder).glob("*.h5")):
        with h5py.File(path) as file:
            found[path.name.split(".")[0]] = file["label"][:]
    return found


def test_validation_chooses_and_the_checkpoint_is_copied(cli, options, speckled, capsys):
    before = speckled.read_bytes()
    cli("validate", *options, "--ckpt_path", speckled, "--choose_postprocessing", "cleaned.ckpt")
    said = capsys.readouterr().out
    assert "Post-processing: " in said and "95 % interval" in said
    assert speckled.read_bytes() == before
    was, now = (Predictor.from_checkpoint(path).spec for path in (speckled, "cleaned.ckpt"))
    assert not was.postprocessing and now.postprocessing and replace(now, postprocessing=()) == was
    with pytest.raises(SystemExit):
        cli("validate", *options, "--ckpt_path", speckled, "--choose_postprocessing", "cleaned.ckpt")
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["test", "fit"])
def test_nothing_but_validation_chooses(cli, options, checkpoint, command, capsys):
    with pytest.raises(SystemExit):
        cli(command, *options, "--ckpt_path", checkpoint, "--choose_postprocessing", "other.ckpt")
    assert "--choose_postprocessing chooses on the validation split" in capsys.readouterr().err
    assert not Path("other.ckpt").exists()


def test_predict_and_test_apply_it_alike(cli, options, phantom_root, cleaned, capsys):
    images = phantom_root / "test_vol_h5"
    cli("predict", "--ckpt_path", cleaned, "--input", images, "--output", "masks", "--device", "cpu")
    said = capsys.readouterr().err
    assert said.count("post-processing is applied: keep the largest component of aorta; keep") == 1
    cli("predict", "--ckpt_path", cleaned, "--input", images, "--output", "raw", "--postprocessing", "false")
    assert "post-processing" not in capsys.readouterr().err
    found, raw = masks_in("masks"), masks_in("raw")
    assert found.keys() == raw.keys() and any((found[name] != raw[name]).any() for name in found)
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, applied(raw[name], STEPS, 0))

    cli("test", *options, "--ckpt_path", cleaned)
    assert capsys.readouterr().err.count("post-processing is applied") == 1
    (table,) = Path("runs").rglob("per_case.csv")
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["class"] != "background"]
    truth, names = masks_in(images), Predictor.from_checkpoint(cleaned).spec.class_names
    for row in rows:
        case, k = row["case"].split(".")[0], names.index(row["class"])
        mask, true = found[case] == k, truth[case] == k
        counts = (mask & true).sum(), (mask & ~true).sum(), (true & ~mask).sum()
        assert counts == tuple(int(row[key]) for key in ("tp", "fp", "fn"))


def test_the_runtime_applies_it(tmp_path):
    steps = [{"operation": "minimum_size", "classes": ["liver"], "size": 20, "unit": "voxels"}]
    network, spec = Pixelwise().eval(), spec_of(postprocessing=steps)
    write_onnx(Job(network, spec, "logits"), tmp_path / "model.onnx")
    runtime, predictor = Segmenter(tmp_path / "model.onnx"), Predictor(network, spec)
    assert runtime.spec == spec
    image = np.random.default_rng(0).normal(40, 30, (3, 1, 40, 48)).astype(np.float32)
    found = runtime(image)
    np.testing.assert_array_equal(found, predictor(image))
    runtime.spec = replace(spec, postprocessing=())
    assert (runtime(image) != found).sum() > 20


def test_ensembles_use_that_of_the_first(speckled, cleaned):
    assert Predictor.from_checkpoint(cleaned, speckled).spec.postprocessing == STEPS
    with pytest.raises(InputError, match=r"cleaned\.ckpt first"):
        Predictor.from_checkpoint(speckled, cleaned)


def test_sizes_in_mm3_need_a_spacing(cleaned, capsys):
    predictor = Predictor.from_checkpoint(cleaned)
    image = np.random.default_rng(0).normal(0, 100, (2, 1, 32, 32)).astype(np.float32)
    predictor.spec = replace(predictor.spec, postprocessing=())
    raw = predictor(image)
    predictor.spec = replace(predictor.spec, postprocessing=(Step("minimum_size", (5,), 1e6, "mm3"),))
    np.testing.assert_array_equal(predictor(image), raw)
    assert "spacing of an image is not known" in capsys.readouterr().err
    assert not (predictor(image, spacing_mm=(3.0, 1.0, 1.0)) == 5).any()

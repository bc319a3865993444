"""ONNX: metadata, precisions, and weights beyond the size limit of a file."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from jobs import images, small_job
from layouts import write_scene
from mlla_seg.errors import InputError
from mlla_seg.export import onnx as ours
from mlla_seg.export.exportable import Job
from mlla_seg.export.quantisation import IMAGES, calibration_images


def test_the_file_says_what_the_network_knows(tmp_path):
    job = small_job(2, "probabilities", patch_size=[96, 64])
    ours.write_onnx(job, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert facts["outputs"] == "probabilities"
    assert facts["channels"] == ["channel 0", "channel 1"]
    assert [entry["colour"] for entry in facts["classes"]] == [[0, 0, 0], [150, 80, 60], [130, 90, 200]]
    assert facts["normalisation"] == {"mean": [40.0, 41.0], "std": 20.0}
    assert facts["patch_size"] == [96, 64]
    assert [entry.name for entry in model.graph.output] == ["probabilities"]
    assert not any(node.metadata_props for node in model.graph.node)


@pytest.mark.parametrize("opset", [18, 20, 25])
def test_the_opset_is_the_one_asked_for(opset, tmp_path):
    ours.write_onnx(small_job(opset=opset), tmp_path / "m.onnx")
    (standard,) = [entry.version for entry in onnx.load(tmp_path / "m.onnx").opset_import if not entry.domain]
    assert standard == opset


@torch.no_grad()
def test_half_precision_takes_and_gives_float32(tmp_path):
    job = small_job(precision="float16")
    engine = ours.write_onnx(job, tmp_path / "m.onnx")
    (image,) = images(sizes=((50, 60),))
    found = engine.run(image.numpy())
    assert found.dtype == np.float32
    expected = job.network(image)
    assert np.abs(found - expected.numpy()).max() < 2e-2 * expected.abs().max()


@torch.no_grad()
def test_weights_that_a_file_cannot_hold_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "IN_FILE", 100)
    job = small_job(4)
    ours.write_onnx(job, tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in list(tmp_path.glob("m.onnx*")):
        path.rename(moved / path.name)
    session = onnxruntime.InferenceSession(moved / "m.onnx", providers=["CPUExecutionProvider"])
    (image,) = images(4, ((50, 60),))
    found = session.run(None, {"image": image.numpy()})[0]
    np.testing.assert_allclose(found, job.network(image).numpy(), atol=1e-5)


@pytest.fixture
def photos(tmp_path):
    """Photos in the value range that the jobs expect."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(draw.normal(40, 20, (50 + k, 60)).clip(0, 255).astype(np.uint8)).save(folder / f"{k}.png")
    return folder


@torch.no_grad()
def test_int8_keeps_the_labels_and_says_what_it_knows(tmp_path, photos):
    job = small_job(precision="int8", calibration=str(photos))
    engine = ours.write_onnx(job, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert {node.op_type for node in model.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    assert {entry.key: entry.value for entry in model.metadata_props}.items() >= job.facts.items()
    assert len(engine.images) == 3
    for image in engine.images:
        found = engine.run(image.numpy()).argmax(axis=1)
        same = (found == job.network(image).argmax(dim=1).numpy()).mean()
        assert same > 0.95
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "photos"]


def test_ranges_come_from_what_the_network_would_be_given(tmp_path, photos):
    job = small_job(calibration=str(photos), resize=[32, 40])
    assert [tuple(image.shape) for image in calibration_images(job)] == [(1, 1, 32, 40)] * 3
    job = small_job(calibration=str(photos), patch_size=[16, 16])
    found = calibration_images(job)
    assert len(found) == IMAGES
    assert {tuple(image.shape) for image in found} == {(1, 1, 16, 16)}
    scene = write_scene(tmp_path / "scene.tif", np.full((1, 40, 50), 40, np.uint8))
    job = small_job(calibration=str(scene), patch_size=[32, 32])
    assert {tuple(image.shape) for image in calibration_images(job)} == {(1, 1, 32, 32)}
    with pytest.raises(InputError, match="no such file or folder"):
        calibration_images(small_job(calibration=str(tmp_path / "absent")))
    with pytest.raises(InputError, match="has 1 bands; this network expects 2"):
        calibration_images(small_job(2, calibration=str(scene)))


def test_products_of_attention_stay_in_float32(tmp_path, photos):
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qk = torch.nn.Linear(4, 4)

        def forward(self, x):
            tokens = self.qk(torch.cat((x, x, x, x), dim=1).flatten(2).transpose(1, 2))
            y = tokens @ (tokens.transpose(1, 2) @ tokens) / tokens.shape[1]
            return y[..., :3].transpose(1, 2).unflatten(2, x.shape[2:])

    ordinary = small_job(precision="int8", calibration=str(photos))
    job = Job(Attention().eval(), ordinary.spec, precision="int8", calibration=str(photos))
    ours.write_onnx(job, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    dequantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    products = [set(node.input) <= dequantised for node in graph.node if node.op_type == "MatMul"]
    assert sorted(products) == [False, False, True]

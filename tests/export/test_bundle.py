"""MONAI bundles, verified and run on NIfTI files by MONAI's own commands where this package cannot be imported."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import warnings
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from forks import apart, forget
from jobs import REGIONS, Pixelwise, segmenter, spec_of
from mlla_seg import Predictor
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.outputs import labels, probabilities
from mlla_seg.data.slices import View
from mlla_seg.errors import InputError
from mlla_seg.export.bundle import metadata, write_bundle
from mlla_seg.export.exportable import Job
from mlla_seg.export.parity import compare
from mlla_seg.export.programs import scripted
from mlla_seg.export.volume import Volume
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.inference.steps import case_logits

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")
AFFINE = np.array([[0, -0.8, 0.1, 10], [0.7, 0, 0, -20], [0, 0.1, 5, 30], [0, 0, 0, 1.0]])


FILES = ("--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json")


def monai_anew(folder, *command):
    """Run ``python -m monai.bundle`` where this package cannot be imported."""
    (folder / "block").mkdir(exist_ok=True)
    (folder / "block/sitecustomize.py").write_text("import sys\nsys.modules['mlla_seg'] = None\n")
    environment = {**os.environ, "PYTHONPATH": str(folder / "block"), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "monai.bundle", *map(str, command), *FILES],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stderr + result.stdout


def monai(folder, *command):
    """Do the same in a child of this process, which has imported torch and MONAI."""

    def program():
        forget("mlla_seg")
        sys.modules["mlla_seg"] = None
        warnings.simplefilter("ignore")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        sys.argv = ["monai.bundle", *map(str, command), *FILES]
        runpy.run_module("monai.bundle", run_name="__main__")

    result = apart(program, folder)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize(("plane", "channels"), [("axial", 1), ("sagittal", 2)])
@pytest.mark.slow
def test_monai_verifies_and_runs_a_bundle(tmp_path, plane, channels):
    network = Pixelwise(3 * channels).eval()
    spec = spec_of(channels, plane=plane, context=1, resize=1.5, patch_size=[32, 40])
    if plane == "sagittal":
        steps = [{"operation": "minimum_size", "classes": ["liver"], "size": 40, "unit": "mm3"}]
        spec = DataSpec.from_dict({**spec.to_dict(), "postprocessing": steps})
    job = Job(network, spec, "labels")
    write_bundle(job, tmp_path / "bundle")
    shape = (24, 37, 9) if channels == 1 else (24, 37, 9, channels)
    volume = np.random.default_rng(0).normal(40, 30, shape).astype(np.float32)
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(volume, AFFINE), tmp_path / "images/ct.nii.gz")
    if channels == 1:
        said = monai_anew(tmp_path / "bundle", "verify_net_in_out", "network_def")
        assert "data shape of network is verified with no error" in said
    places = ("--bundle_root", ".", "--dataset_dir", tmp_path / "images", "--output_dir", tmp_path / "masks")
    monai(tmp_path / "bundle", "run", *places)
    segment_files(Predictor(network, job.spec), tmp_path / "images", tmp_path / "ours", MapOptions())
    theirs, ours = nib.load(tmp_path / "masks/ct_seg.nii.gz"), nib.load(tmp_path / "ours/ct.nii.gz")
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-5)
    assert theirs.get_data_dtype() == np.uint8
    found, expected = np.asarray(theirs.dataobj), np.asarray(ours.dataobj)
    assert set(np.unique(expected)) == {0, 1, 4}
    assert (found == expected).mean() > 0.9995
    if plane == "sagittal":
        segment_files(
            Predictor(network, replace(spec, postprocessing=())), tmp_path / "images", tmp_path / "raw", MapOptions()
        )
        raw = np.asarray(nib.load(tmp_path / "raw/ct.nii.gz").dataobj)
        removed = raw != expected
        assert removed.sum() > 5 and (found == expected)[removed].all()


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, REGIONS], ids=["classes", "regions"])
def test_spacing_is_monais_and_nearly_ours(tmp_path, more):
    network = Pixelwise().eval()
    job = Job(network, spec_of(spacing_mm=[None, 1.0, 1.0], **more), "labels")
    engine = write_bundle(job, tmp_path / "bundle")
    assert compare(job, engine, tmp_path / "bundle", ["a.ckpt"]).problem == ""
    (tmp_path / "images").mkdir()
    smooth = torch.nn.functional.interpolate(torch.randn(1, 1, 6, 8, 9), (48, 61, 9), mode="trilinear")[0, 0]
    nib.save(nib.Nifti1Image((40 + 30 * smooth).numpy(), np.diag([1.6, 1.6, 4, 1])), tmp_path / "images/ct.nii.gz")
    places = ("--bundle_root", ".", "--dataset_dir", tmp_path / "images", "--output_dir", tmp_path / "masks")
    monai(tmp_path / "bundle", "run", *places)
    segment_files(Predictor(network, job.spec), tmp_path / "images", tmp_path / "ours", MapOptions())
    theirs, ours = nib.load(tmp_path / "masks/ct_seg.nii.gz"), nib.load(tmp_path / "ours/ct.nii.gz")
    assert theirs.shape == ours.shape
    found, expected = np.asarray(theirs.dataobj), np.asarray(ours.dataobj)
    assert set(np.unique(found)) == set(np.unique(expected)) > {4}
    assert (found == expected).mean() > 0.99


def test_metadata_names_channels_and_classes(tmp_path):
    job = Job(segmenter("segformer"), spec_of(), "labels")
    write_bundle(job, tmp_path / "bundle")
    content = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())
    data = content["network_data_format"]
    assert data["inputs"]["image"]["channel_def"] == {"0": "channel 0"}
    assert data["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "liver", "4": "spleen"}
    assert {"version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task"} <= set(content)
    assert {"required_packages_version", "description", "authors", "copyright"} <= set(content)
    files = {str(path.relative_to(tmp_path / "bundle")) for path in (tmp_path / "bundle").rglob("*") if path.is_file()}
    expected = {"configs/metadata.json", "configs/inference.json", "models/model.ts", "docs/README.md", "LICENSE"}
    assert files == expected


def schema():
    """The required fields of MONAI's schema of metadata, in our words."""
    numbers = {"type": "array", "items": {"type": "number"}}
    sizes = {"type": "array", "items": {"type": ["string", "integer"]}}
    text = {key: {"type": "string"} for key in ("type", "format", "dtype")}
    tensor = {**text, "num_channels": {"type": "integer"}, "spatial_shape": sizes, "value_range": numbers}
    tensors = {"type": "object", "additionalProperties": {"properties": tensor, "required": list(tensor)}}
    names = ("schema", "version", "monai_version", "pytorch_version", "numpy_version")
    texts = {key: {"type": "string"} for key in (*names, "task", "description", "authors", "copyright")}
    data = {"properties": {"inputs": tensors, "outputs": tensors}, "required": ["inputs", "outputs"]}
    properties = {**texts, "required_packages_version": {"type": "object"}, "network_data_format": data}
    return {"type": "object", "properties": properties, "required": list(properties)}


@pytest.mark.filterwarnings("ignore:No hash value provided")
@pytest.mark.parametrize("how", [{}, {"spacing_mm": [5.0, 1.0, 1.0]}, {"normalisation": {"window": [-125.0, 275.0]}}])
def test_metadata_pass_monais_check(how, tmp_path):
    from monai.bundle import verify_metadata

    pytest.importorskip("jsonschema")
    content = metadata(spec_of(2, **how))
    assert re.fullmatch(r"https://github.com/Project-MONAI/.*/meta_schema_\d{8}\.json", content["schema"])
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    (tmp_path / "schema.json").write_text(json.dumps(schema()))  # not downloaded, because it exists
    verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(tmp_path / "schema.json"))
    (tmp_path / "metadata.json").write_text(json.dumps({**content, "network_data_format": {"inputs": {}}}))
    with pytest.raises(ValueError, match="'outputs' is a required property"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(tmp_path / "schema.json"))


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("resize", [None, 1.5, [48, 40]])
@pytest.mark.parametrize("patch_size", [None, [32, 40], [20, 300]])
@torch.no_grad()
def test_the_volume_does_what_prediction_does(context, resize, patch_size):
    network = Mixing(2 * (2 * context + 1))
    case = torch.randn(6, 2, 33, 47, generator=torch.Generator().manual_seed(0))
    view = View(resize=resize, patch_size=patch_size, context=context)
    expected = torch.cat(list(case_logits(TorchEngine(network), case, view)))
    volume = case.permute(1, 2, 3, 0)[None]
    probabilities = scripted(Volume(network, view))(volume)
    torch.testing.assert_close(probabilities[0].permute(3, 0, 1, 2), expected.softmax(dim=1), atol=1e-5, rtol=1e-4)
    labels = scripted(Volume(network, view, [0, 7, 300]))(volume)
    assert labels.dtype == torch.int16
    values = torch.tensor([0, 7, 300], dtype=torch.int16)[expected.argmax(dim=1)]
    assert (labels[0, 0].permute(2, 0, 1) == values).float().mean() > 0.9999


@torch.no_grad()
def test_the_volume_writes_regions():
    network, writes = Mixing(2), spec_of(2, **REGIONS).writes
    case = torch.randn(6, 2, 33, 47, generator=torch.Generator().manual_seed(0))
    expected = torch.cat(list(case_logits(TorchEngine(network), case, View())))
    volume = case.permute(1, 2, 3, 0)[None]
    found = scripted(Volume(network, View(), None, writes))(volume)
    torch.testing.assert_close(found[0].permute(3, 0, 1, 2), probabilities(expected, writes))
    written = scripted(Volume(network, View(), [0, 1, 2, 4], writes))(volume)
    values = torch.tensor([0, 1, 2, 4], dtype=torch.uint8)[labels(expected, writes).long()]
    torch.testing.assert_close(written[0, 0].permute(2, 0, 1), values)


@pytest.mark.parametrize("per_case", [True, ("zscore", "rescale_to_0_1"), (None, "zscore")])
@torch.no_grad()
def test_the_volume_standardises_whole_cases_as_prediction_does(per_case):
    network = Mixing(3 * 2)
    case = 300 + 50 * torch.randn(6, 2, 33, 47, generator=torch.Generator().manual_seed(0))
    view = View(context=1, per_case=per_case)
    expected = torch.cat(list(case_logits(TorchEngine(network), case, view)))
    found = scripted(Volume(network, view))(case.permute(1, 2, 3, 0)[None])
    torch.testing.assert_close(found[0].permute(3, 0, 1, 2), expected.softmax(dim=1), atol=1e-5, rtol=1e-4)


class Mixing(torch.nn.Module):
    """A network with a receptive field of more than one pixel."""

    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(channels, 3, 5, padding=2)

    def forward(self, x):
        return self.conv(x)


def test_a_bundle_of_another_network_is_found_out(tmp_path):
    job = Job(segmenter("segformer"), spec_of(), "labels")
    assert compare(job, write_bundle(job, tmp_path / "bundle"), tmp_path / "bundle", ["a.ckpt"]).problem == ""
    other = Job(segmenter("segformer"), spec_of(), "labels")
    other.network.head.weight.data.neg_()
    mixed_up = replace(write_bundle(other, tmp_path / "other"), expected=job.network)
    assert "labels at" in compare(job, mixed_up, tmp_path / "other", ["a.ckpt"]).problem


def test_a_network_that_torchscript_cannot_take_is_named(tmp_path):
    with pytest.raises(InputError, match="TorchScript does not support this network"):
        write_bundle(Job(segmenter("unetplusplus"), spec_of(), "labels"), tmp_path / "bundle")


def test_volumes_in_the_plane_of_their_acquisition_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"\(plane: acquired\); MONAI reorients all to one plane\. Export onnx for mlla_seg"
    ):
        write_bundle(Job(segmenter("segformer"), spec_of(plane="acquired"), "labels"), tmp_path / "bundle")

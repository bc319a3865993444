"""Networks of volumes: exported for any size, run by the runtime as predict does, and refused where that fails."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from jobs import spec_of
from mlla_seg import Predictor
from mlla_seg.data.framing import pad
from mlla_seg.data.slices import View
from mlla_seg.errors import InputError
from mlla_seg.export import FORMATS, export, onnx
from mlla_seg.export.bundle import metadata, write_bundle
from mlla_seg.export.exportable import Exportable, Job, example_image
from mlla_seg.export.parity import compare
from mlla_seg.export.programs import scripted
from mlla_seg.export.volume import PatchedVolume
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.inference.steps import case_logits
from mlla_seg.models import create_model
from mlla_seg.models.blocks import Block
from mlla_seg.models.mixers import rope_for
from mlla_seg.runtime import Segmenter

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")
PATCH = [8, 16, 12]
NORMALISATION = {"mean": 40.0, "std": 20.0}


class Voxelwise(nn.Module):
    """A network of volumes that exports quickly, with a receptive field of more than one voxel."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(channels, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv((x - 40) / 20)


class OneBlock(nn.Module):
    """A network of volumes with one MLLA block, for sizes padded to multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv3d(1, 12, 4, stride=4)
        self.block = Block(12, num_heads=2, kernel=(3, 3, 3))
        self.head = nn.ConvTranspose3d(12, 3, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margins = [m for size in reversed(x.shape[2:]) for m in (0, (size + 3) // 4 * 4 - size)]
        tokens = self.down((pad(x, margins) - 40) / 20).movedim(1, -1)
        return nn.functional.pad(self.head(self.block(tokens, rope_for(tokens)).movedim(-1, 1)), [-m for m in margins])


def small_network() -> nn.Module:
    """A network with blocks of attention, and a step that keeps the number of slices."""
    torch.manual_seed(0)
    strides = [[1, 2, 2], *[[2, 2, 2]] * 2, *[[1, 1, 1]] * 2]
    shape = {"dims": 3, "strides": strides, "decoder_depths": (1, 1, 1)}
    return create_model("mlla_test", "mlla_unet", 3, 1, NORMALISATION, frame=PATCH, **shape)


def job_of(network: nn.Module | None = None, outputs: str = "logits", **more: object) -> Job:
    return Job((network or Voxelwise()).eval(), spec_of(patch_size=PATCH, **more), outputs)


@pytest.mark.parametrize(
    ("format", "outputs"),
    [("onnx", "logits"), ("openvino", "labels"), ("torch_export", "probabilities"), ("torchscript", "labels")],
)
def test_files_take_volumes_of_any_size(format, outputs, tmp_path):
    job = job_of(outputs=outputs)
    path = tmp_path / f"m{FORMATS[format].suffix}"
    report = compare(job, FORMATS[format].write(job, path), path, ["a.ckpt"])
    assert report.problem == ""
    assert [row.shape[2:] for row in report.rows] == [(5, 17, 30), (33, 24, 41), tuple(PATCH)]


def test_a_difference_names_the_size_of_the_volume(tmp_path):
    job = job_of()
    engine = onnx.write_onnx(job, tmp_path / "m.onnx")
    job.network.conv.weight.data.neg_()
    assert "logits at 5 x 17 x 30 differ by" in compare(job, engine, tmp_path / "m.onnx", ["a.ckpt"]).problem


def test_a_network_of_attention_and_its_folder(tmp_path):
    network = small_network().eval()
    job = job_of(network)
    script = scripted(Exportable(network))
    with torch.no_grad():
        for sizes in ((5, 17, 30), PATCH):
            image = example_image(job.spec, (2, 1, *sizes))
            torch.testing.assert_close(script(image), network(image), atol=1e-4, rtol=0)
    assert compare(job, FORMATS["safetensors"].write(job, tmp_path / "f"), tmp_path / "f", ["a.ckpt"]).problem == ""


@pytest.mark.slow
def test_onnx_of_a_block_of_attention(tmp_path):
    job = job_of(OneBlock())
    assert compare(job, onnx.write_onnx(job, tmp_path / "m.onnx"), tmp_path / "m.onnx", ["a.ckpt"]).problem == ""


@pytest.mark.parametrize(("suffix", "per_case"), [(".onnx", True), (".xml", False)])
def test_the_runtime_gives_the_labels_of_predict(suffix, per_case, tmp_path):
    normalisation = {"per_case": True} if per_case else NORMALISATION
    job = job_of(spacing_mm=[2.0, 1.0, 1.0], normalisation=normalisation)
    write = onnx.write_onnx if suffix == ".onnx" else FORMATS["openvino"].write
    write(job, tmp_path / f"m{suffix}")
    scan = 40 + 20 * np.random.default_rng(0).normal(size=(19, 23, 11)).astype(np.float32)
    nib.save(nib.Nifti1Image(scan, np.diag([0.8, 1.3, 3, 1])), tmp_path / "scan.nii.gz")
    found = Segmenter(tmp_path / f"m{suffix}")(tmp_path / "scan.nii.gz")
    expected = Predictor(job.network, job.spec)(tmp_path / "scan.nii.gz")
    assert found.shape == expected.shape and set(np.unique(expected)) == {0, 1, 2}
    assert (found == expected).mean() > 0.9995


@pytest.mark.parametrize("sizes", [(5, 16, 30), (8, 16, 12), (21, 9, 13)])
@pytest.mark.parametrize("per_case", [False, True])
@torch.no_grad()
def test_the_volume_of_a_bundle_does_what_prediction_does(sizes, per_case):
    network, view = Voxelwise(2), View(patch_size=PATCH, per_case=per_case)
    case = 40 + 20 * torch.randn(sizes[0], 2, *sizes[1:], generator=torch.Generator().manual_seed(0))
    expected = torch.cat(list(case_logits(TorchEngine(network), case, view)))
    volume = case.permute(1, 2, 3, 0)[None]
    found = scripted(PatchedVolume(network, view))(volume)[0].permute(3, 0, 1, 2)
    torch.testing.assert_close(found, expected.softmax(dim=1), atol=1e-5, rtol=1e-4)
    labels = scripted(PatchedVolume(network, view, [0, 7, 300]))(volume)
    values = torch.tensor([0, 7, 300], dtype=torch.int16)[expected.argmax(dim=1)]
    assert (labels[0, 0].permute(2, 0, 1) == values).float().mean() > 0.9999


@pytest.mark.parametrize("spacing_mm", [None, [2.0, 1.0, 1.0]])
def test_bundles_are_compared_beyond_one_window(spacing_mm, tmp_path):
    job = job_of(outputs="labels", spacing_mm=spacing_mm)
    report = compare(job, write_bundle(job, tmp_path / "bundle"), tmp_path / "bundle", ["a.ckpt"])
    assert report.problem == "" and report.rows[0].shape == (10, 1, 13, 12)
    assert metadata(job.spec)["description"].startswith("Patches of CT volumes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"format": "aoti", "output": "m.pt2"},
            "^--format aoti is for networks of slices .* Use --format onnx, .*torchscript",
        ),
        ({"format": "deepness", "output": "m.onnx"}, "^--format deepness is for networks of slices or images"),
        (
            {"precision": "int8", "calibration": "x", "output": "m.onnx"},
            "^--precision int8 is for .* Use --precision float32 or float16",
        ),
    ],
)
def test_what_takes_slices_alone_is_refused_before_work_begins(options, message, tmp_path, capsys):
    network = small_network()
    network.spec = spec_of(patch_size=PATCH)
    network.save_pretrained(tmp_path / "folder")
    with pytest.raises(InputError, match=message):
        export(str(tmp_path / "folder"), **{**options, "output": str(tmp_path / options["output"])})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert "Exporting" not in capsys.readouterr().err

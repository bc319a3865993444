"""Exported segmenters without torch: masks equal to the checkpoint's, on volumes, photos and scenes."""

from __future__ import annotations

import subprocess
import sys

import nibabel as nib
import numpy as np
import onnx
import pytest
import rasterio
import torch
from torch import nn

from conftest import ROOT
from jobs import REGIONS, spec_of
from layouts import write_scene
from mlla_seg import Predictor
from mlla_seg.checksums import KEY
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.errors import InputError
from mlla_seg.export.exportable import Job
from mlla_seg.export.onnx import write_onnx
from mlla_seg.export.openvino import write_openvino
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.runtime import Segmenter
from mlla_seg.runtime.__main__ import main
from mlla_seg.runtime.engines import open_engine

SPEC = {
    **spec_of().to_dict(),
    "channels": ["red", "green"],
    "bands": ["red", "green"],
    "classes": [{"name": name, "colour": [k, k, k], "id": k} for k, name in enumerate("abc")],
    "normalisation": {"mean": 40.0, "std": 20.0},
}


class Around(nn.Module):
    """A network that sees 5 x 5 pixels and any neighbouring slices."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 3, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv((x - 40) / 20)


def both(tmp_path, outputs="logits", **more):
    """One network as checkpoint predictor and as runtime segmenter."""
    spec = DataSpec.from_dict({**SPEC, "background": 0, **more})
    network = Around(spec.in_channels).eval()
    write_onnx(Job(network, spec, outputs), tmp_path / "m.onnx")
    return Predictor(network, spec), Segmenter(tmp_path / "m.onnx")


HOW = {
    "plain": {},
    "context": {"context": 2},
    "resized": {"resize": [40, 56]},
    "factor and windows": {"resize": 1.5, "patch_size": [32, 48], "context": 1},
    "windows": {"patch_size": [20, 100]},
    "spacing": {"spacing_mm": [2.0, 1.0, None], "patch_size": [32, 32]},
    "whole cases": {"normalisation": {"per_case": True}, "context": 1, "patch_size": [32, 48]},
    "regions": {**REGIONS, "resize": [40, 56]},
    "mixed channels": {"normalisation": {"per_case": ["rescale_to_0_1", None]}, "context": 1},
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_volumes_get_the_labels_and_probabilities_of_the_checkpoint(tmp_path, how, outputs):
    predictor, segmenter = both(tmp_path, outputs, **HOW[how])
    volume = np.random.default_rng(0).normal(40, 20, (7, 2, 33, 47)).astype(np.float32)
    spacing = (4.0, 0.7, 0.8)
    expected = predictor(volume, batch_size=3, spacing_mm=spacing)
    found = segmenter(volume, batch_size=3, spacing_mm=spacing)
    assert found.dtype == np.uint8
    assert (found == expected).mean() > 0.999
    for one, other in zip(segmenter.logits(volume, 3, spacing), predictor.logits(volume, 3, spacing), strict=True):
        np.testing.assert_allclose(
            segmenter.engine.probabilities(one, 1), predictor.engine.probabilities(other, 1), atol=1e-4
        )
    np.testing.assert_array_equal(segmenter(volume[2], spacing_mm=spacing).shape, (33, 47))


@pytest.mark.parametrize(
    "more",
    [{}, {"resize": 0.5}, REGIONS, {"normalisation": {"per_case": True}}],
    ids=["plain", "resized", "regions", "whole scenes"],
)
def test_scenes_become_the_same_maps(tmp_path, more):
    predictor, segmenter = both(tmp_path, patch_size=[32, 32], **more)
    array = np.random.default_rng(0).normal(40, 20, (2, 90, 110)).astype(np.float32)
    array[:, :40, :50] = np.nan
    source = write_scene(tmp_path / "scene.tif", array)
    options = MapOptions(probabilities=True, overlap=0.25, blend="cosine")
    for name, one in (("a", predictor), ("b", segmenter)):
        segment_files(one, source, tmp_path / f"{name}.tif", options)
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
        assert (a.read() == b.read()).mean() > 0.999
        assert (a.read(1)[:40, :50] == b.nodata).all()
        assert a.transform == b.transform
    with rasterio.open(tmp_path / "a.probabilities.tif") as a, rasterio.open(tmp_path / "b.probabilities.tif") as b:
        assert np.abs(a.read().astype(int) - b.read()).max() <= 1
        assert list(a.descriptions) == predictor.spec.output_names


def test_another_export_at_the_same_path_is_another_network(tmp_path, capsys):
    both(tmp_path, patch_size=[32, 32])
    source = write_scene(tmp_path / "scene.tif", np.random.default_rng(0).normal(40, 20, (2, 40, 50)))
    command = [*map(str, (tmp_path / "m.onnx", source, tmp_path / "map.tif")), "--overwrite=false"]
    main(command)
    main(command)
    assert "map.tif was made before by the same command and kept." in capsys.readouterr().err
    network = onnx.load(tmp_path / "m.onnx")
    values = network.graph.initializer[0]
    values.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(values) * 2, values.name))
    onnx.save(network, tmp_path / "m.onnx")
    with pytest.raises(SystemExit):
        main(command)
    assert "was changed after its export" in capsys.readouterr().err
    (seal,) = (entry for entry in network.metadata_props if entry.key == KEY)
    network.metadata_props.remove(seal)
    onnx.save(network, tmp_path / "m.onnx")
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert "map.tif was made otherwise, with another network, and kept." in capsys.readouterr().err


def test_openvino_gives_the_same_and_in_bfloat16_nearly(tmp_path):
    predictor, _ = both(tmp_path, patch_size=[32, 48], context=1)
    write_openvino(Job(predictor.network, predictor.spec), tmp_path / "m.xml")
    volume = np.random.default_rng(0).normal(40, 20, (7, 2, 33, 47)).astype(np.float32)
    segmenter = Segmenter(tmp_path / "m.xml", threads=1)
    assert segmenter.spec == Segmenter(tmp_path / "m.onnx").spec
    for one, other in zip(segmenter.logits(volume, 3), predictor.logits(volume, 3), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    half = Segmenter(tmp_path / "m.xml", precision="bf16")
    assert (half(volume) == predictor(volume)).mean() > 0.97


@pytest.mark.slow
def test_a_real_export_segments_a_nifti_by_name(exported, checkpoint, cli, tmp_path):
    volume = np.random.default_rng(0).normal(40, 100, (50, 41, 6)).astype(np.float32)
    affine = np.array([[0, -0.8, 0.1, 10], [0.7, 0, 0, -20], [0, 0.1, 5, 30], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "ct.nii.gz")
    main([str(exported), str(tmp_path / "ct.nii.gz"), str(tmp_path / "out.nii.gz")])
    cli("predict", "--ckpt_path", checkpoint, "--input", tmp_path / "ct.nii.gz", "--output", tmp_path / "ours.nii.gz")
    found, expected = nib.load(tmp_path / "out.nii.gz"), nib.load(tmp_path / "ours.nii.gz")
    np.testing.assert_array_equal(found.affine, expected.affine)
    assert (np.asarray(found.dataobj) == np.asarray(expected.dataobj)).mean() > 0.999


def test_importing_it_needs_numpy_alone():
    code = "import sys, mlla_seg.runtime; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    third_party = set(loaded.split()) - set(sys.stdlib_module_names) - {"mlla_seg", "numpy", "__main__"}
    assert not {name for name in third_party if not name.startswith(("_", "sitecustomize"))}


def test_it_runs_where_torch_and_the_readers_are_not_there(tmp_path):
    both(tmp_path)
    np.savez(tmp_path / "image.npz", image=np.zeros((2, 3), np.float32))
    hidden = ["torch", "yaml", "tqdm", "nibabel", "h5py", "PIL", "lightning", "monai", "scipy"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({hidden}))
import numpy as np
from mlla_seg.runtime import Segmenter
from mlla_seg.runtime.__main__ import main
print(Segmenter("m.onnx")(np.full((2, 32, 40), 40, np.float32)).shape)
main(["m.onnx", "ct.nii", "masks"])
"""
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4)), tmp_path / "ct.nii")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert result.stdout.startswith("(32, 40)")
    assert result.returncode == 2
    assert "error: ct.nii: this format needs nibabel: pip install nibabel" in result.stderr
    assert "Traceback" not in result.stderr


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_mistakes_are_answered_in_a_line(capsys, tmp_path):
    write_onnx(Job(Around(2).eval(), DataSpec.from_dict(SPEC), "labels"), tmp_path / "labels.onnx")
    both(tmp_path)
    np.savez(tmp_path / "image.npz", image=np.zeros((8, 8), np.float32))
    image = tmp_path / "image.npz"
    assert "absent.onnx: no such file" in refused(capsys, tmp_path / "absent.onnx", image, tmp_path / "out")
    assert "returns labels" in refused(capsys, tmp_path / "labels.onnx", image, tmp_path / "out")
    assert "cannot be loaded as ONNX" in refused(capsys, image, image, tmp_path / "out")
    assert "Unknown device 'tpu'" in refused(capsys, tmp_path / "m.onnx", image, tmp_path / "o", "--device", "tpu")
    assert "cannot use cuda" in refused(capsys, tmp_path / "m.onnx", image, tmp_path / "o", "--device", "cuda")
    assert "absent.xml: no such file. python cli.py export --format openvino" in refused(
        capsys, tmp_path / "absent.xml", image, tmp_path / "out"
    )
    assert "export with --format openvino" in refused(
        capsys, tmp_path / "m.onnx", image, tmp_path / "o", "--precision", "bf16"
    )
    assert "Known: fp32, bf16" in refused(capsys, tmp_path / "m.onnx", image, tmp_path / "o", "--precision", "int8")
    (tmp_path / "broken.xml").write_text("<net/>")
    assert "cannot be loaded by OpenVINO" in refused(capsys, tmp_path / "broken.xml", image, tmp_path / "out")
    assert "has 1 channels; this network was trained on 2" in refused(
        capsys, tmp_path / "m.onnx", image, tmp_path / "o"
    )
    assert "no such file or folder" in refused(capsys, tmp_path / "m.onnx", tmp_path / "absent", tmp_path / "out")
    model = onnx.load(tmp_path / "m.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    assert "its classes are missing" in refused(capsys, tmp_path / "bare.onnx", image, tmp_path / "out")


def test_damaged_exports_are_refused_in_a_line(tmp_path):
    write_onnx(Job(Around(2).eval(), DataSpec.from_dict(SPEC), "logits"), tmp_path / "m.onnx")
    images = np.zeros((1, 2, 8, 8), np.float32)

    def opened(model, change=lambda content: content):
        onnx.helper.set_model_props(model, {**facts, "note": "Zürich"})
        (tmp_path / "changed.onnx").write_bytes(change(model.SerializeToString()))
        return open_engine(tmp_path / "changed.onnx", threads=1)[0]

    model = onnx.load(tmp_path / "m.onnx")
    facts = {entry.key: entry.value for entry in model.metadata_props if entry.key != KEY}
    assert opened(model)(images).shape == (1, 3, 8, 8)
    with pytest.raises(InputError, match=r"changed\.onnx: cannot be loaded as ONNX"):
        opened(model, lambda content: content.replace("Zü".encode(), b"Z\xfc\xfc"))
    output = model.graph.output[0].name
    (last,) = (node for node in model.graph.node if output in node.output)
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Reshape", ["before", "shape"], [output]))
    model.graph.initializer.append(onnx.TensorProto())
    for shape, problem in (
        ([1, 3, 4, 16], "returns 1 x 3 x 4 x 16 for images of 1 x 2 x 8 x 8, expected 1 x 3 x 8 x 8"),
        ([1, 3, 5, 5], r"fails on images of 1 x 2 x 8 x 8 \(.*Reshape"),
    ):
        model.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(np.array(shape), "shape"))
        with pytest.raises(InputError, match=problem):
            opened(model)(images)


def test_what_other_programs_add_to_a_file_is_no_harm(tmp_path):
    _, segmenter = both(tmp_path)
    model = onnx.load(tmp_path / "m.onnx")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**facts, "by": "onnxruntime.quant"})
    onnx.save(model, tmp_path / "changed.onnx")
    assert Segmenter(tmp_path / "changed.onnx").spec == segmenter.spec

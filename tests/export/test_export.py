"""The ``export`` command: files, messages, and errors before and after the export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import mlla_seg.export
from conftest import ROOT, TINY
from jobs import REGIONS, Pixelwise, segmenter, spec_of
from mlla_seg import Segmenter
from mlla_seg.data.outputs import labels, probabilities
from mlla_seg.errors import InputError
from mlla_seg.export import FORMATS, export
from mlla_seg.export.exportable import Job
from mlla_seg.export.folder import write_safetensors
from mlla_seg.export.parity import SIZES, Engine, compare


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_averaged_weights_are_what_is_exported(cli, phantom_root):
    options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
    cli("fit", *options, "--trainer.max_epochs=1", "--trainer.callbacks+=mlla_seg.training.ema.WarmEMA")
    path = Path("runs/demo/version_0/checkpoints/last.ckpt")
    cli("export", "--ckpt_path", path, "--format=torchscript", "--output=m.ts")
    assert json.loads(Path("m.ts.parity.json").read_text())["weights"] == "moving average"
    content = torch.load(path, weights_only=True)
    averaged, last = (content[key]["network.head.weight"] for key in ("state_dict", "current_model_state"))
    assert not torch.equal(averaged, last)
    assert torch.equal(torch.jit.load("m.ts").network.head.weight, averaged)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The command with a network that exports quickly, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlla_seg.export, "load_network", lambda paths, tta: (Pixelwise().eval(), spec_of()))
    return tmp_path


def refused(capsys, cli, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli("export", *arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    return message


@pytest.mark.slow
def test_a_checkpoint_becomes_an_onnx_and_a_report(exported, checkpoint):
    assert sorted(path.name for path in exported.parent.iterdir()) == ["model.onnx", "model.onnx.parity.json"]
    onnx.checker.check_model(exported, full_check=True)
    report = json.loads(Path(f"{exported}.parity.json").read_text())
    sizes = [tuple(row["shape"][2:]) for row in report["rows"]]
    assert sizes == [*SIZES, (32, 32)]  # and the size of the training
    assert max(row["difference"] for row in report["rows"]) <= 1e-4
    assert min(row["same_labels"] for row in report["rows"]) > 0.999
    assert all(row["torch_ms"] > 0 and row["engine_ms"] > 0 for row in report["rows"])
    assert report["checkpoints"] == ["/".join(checkpoint.parts[-4:])]  # without folders of this machine
    assert report["weights"] == "as trained"
    assert report["size_mb"] == pytest.approx(exported.stat().st_size / 1e6)
    assert report["engine"].startswith("onnxruntime ")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("format", [name for name, entry in FORMATS.items() if entry.suffix and name != "aoti"])
def test_every_format_by_the_command(quick, cli, capsys, format):
    name = f"deep/model{FORMATS[format].suffix}"
    cli("export", "--ckpt_path", "a.ckpt", "--format", format, "--output", name)
    said = capsys.readouterr()
    assert "max |difference|" in said.out
    assert f"Written: {name}" in said.out
    assert "minute" in said.err
    found = sorted(path.name for path in Path("deep").iterdir())
    beside = ["model.bin"] if format == "openvino" else []
    assert found == sorted([Path(name).name, f"{Path(name).name}.parity.json", *beside])


def test_a_file_that_differs_is_not_written(quick, cli, capsys, monkeypatch):
    right = FORMATS["onnx"].write

    def wrong(job, path):
        engine = right(job, path)
        return replace(engine, run=lambda image: engine.run(image) + 0.001)

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=wrong))
    message = refused(capsys, cli, "--ckpt_path=a.ckpt", "--output=m.onnx")
    assert "m.onnx: not written, because it differs from the checkpoint: logits at 17 x 30 differ by 0.001" in message
    assert not list(quick.iterdir())


def test_an_interrupted_export_leaves_what_was_there(quick, monkeypatch):
    Path("m.onnx").write_text("before")

    def breaks(job, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=breaks))
    with pytest.raises(KeyboardInterrupt):
        export("a.ckpt", "m.onnx")
    assert [(path.name, path.read_text()) for path in quick.iterdir()] == [("m.onnx", "before")]


def test_mistakes_are_answered_before_any_work(quick, cli, capsys):
    def said(*arguments):
        return refused(capsys, cli, "--ckpt_path=a.ckpt", *arguments)

    message = said("--format=onx", "--output=m.onnx")
    assert "Unknown --format 'onx'. Did you mean onnx" in message
    assert all(name in message for name in FORMATS)
    assert "must end with .onnx" in said("--output=m.pt2")
    assert "Unknown --outputs 'scores'. Known: logits, probabilities, labels" in said(
        "--output=m.onnx", "--outputs=scores"
    )
    assert "--outputs labels: --format deepness supports probabilities" in said(
        "--format=deepness", "--output=m.onnx", "--outputs=labels"
    )
    assert "Unknown --precision 'int4'. Did you mean int8? Known: float32" in said(
        "--output=m.onnx", "--precision=int4"
    )
    assert "--precision int8: --format torchscript supports" in said(
        "--format=torchscript", "--output=m.ts", "--precision=int8"
    )
    assert "go together" in said("--output=m.onnx", "--precision=int8")
    assert "go together" in said("--output=m.onnx", "--calibration=images")
    assert "--opset must be 18 to 25, got 11" in said("--output=m.onnx", "--opset=11")
    assert "--opset must be 18 to 25, got 99" in said("--format=deepness", "--output=m.onnx", "--opset=99")
    assert "--tile is an option of --format deepness, not of onnx" in said("--output=m.onnx", "--tile=64")
    assert "--tile must be 1 pixel or more, got 0" in said("--format=deepness", "--output=m.onnx", "--tile=0")
    assert "--pixel_size_m must be above zero, got -1.0" in said(
        "--format=deepness", "--output=m.onnx", "--pixel_size_m=-1"
    )
    Path("m.onnx").mkdir()
    assert "m.onnx: is a folder" in said("--output=m.onnx")
    Path("full").mkdir()
    Path("full/file").write_text("")
    assert "full: already exists" in said("--format=monai_bundle", "--output=full")
    assert "cannot write to full/file" in said("--output=full/file/m.onnx")


def test_files_beside_the_output_are_not_replaced(quick, cli, capsys):
    Path("m.bin").write_bytes(b"precious")
    message = refused(capsys, cli, "--ckpt_path=c", "--format=openvino", "--output=m.xml")
    assert "m.bin beside it would be replaced, but is not part of an earlier export" in message
    Path("m.onnx.data").write_bytes(b"precious")
    assert "m.onnx.data beside it" in refused(capsys, cli, "--ckpt_path=c", "--output=m.onnx")
    assert Path("m.bin").read_bytes() == Path("m.onnx.data").read_bytes() == b"precious"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_link_is_replaced_and_a_link_to_a_folder_followed(quick, cli, monkeypatch):
    Path("elsewhere.ts").write_bytes(b"precious")
    Path("m.ts").symlink_to("elsewhere.ts")
    cli("export", "--ckpt_path=c", "--format=torchscript", "--output=m.ts")
    assert not Path("m.ts").is_symlink()
    assert Path("elsewhere.ts").read_bytes() == b"precious"
    Path("folder").mkdir()
    Path("link").symlink_to("folder")
    monkeypatch.setattr(mlla_seg.export, "load_network", lambda paths, tta: (segmenter("unet"), spec_of()))
    cli("export", "--ckpt_path=c", "--format=safetensors", "--output=link")
    assert Path("folder/model.safetensors").is_file()
    cli("export", "--ckpt_path=c", "--format=torchscript", "--output=link/m.ts")
    assert Path("folder/m.ts").is_file()


def test_checkpoints_that_cannot_be_loaded_are_named(cli, capsys, checkpoint, tmp_path):
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    for name, reason in (("absent.ckpt", "no such checkpoint"), ("cut.ckpt", "cannot be read as a checkpoint")):
        assert f"{name}: {reason}" in refused(capsys, cli, "--ckpt_path", name, "--output=m.onnx")
    assert "was trained without flips" in refused(
        capsys, cli, "--ckpt_path", checkpoint, "--output=m.onnx", "--tta=true"
    )
    assert not list(tmp_path.glob("m.onnx*"))


def test_a_missing_package_names_the_extra(quick, cli, capsys, monkeypatch):
    monkeypatch.setattr(mlla_seg.export, "find_spec", lambda name: None if name == "onnxscript" else name)
    message = refused(capsys, cli, "--ckpt_path=a.ckpt", "--output=m.onnx")
    assert "--format onnx needs onnxscript: pip install 'mlla_seg[export]'" in message


@torch.no_grad()
def test_a_folder_is_a_network_of_its_own(tmp_path):
    network = segmenter("unet", 2)
    network.spec = spec_of(2)
    engine = write_safetensors(Job(network, network.spec), tmp_path / "liver")
    image = torch.randn(1, 2, 40, 50) * 20 + 40
    np.testing.assert_array_equal(engine.run(image.numpy()), network(image).numpy())
    assert Segmenter.from_pretrained(tmp_path / "liver").spec == network.spec
    with pytest.raises(InputError, match="A safetensors folder holds one network"):
        write_safetensors(Job(Pixelwise(), spec_of()), tmp_path / "other")


class Brighter:
    """An engine whose results are off by a constant."""

    def __init__(self, network, outputs, by, writes=None):
        self.network, self.outputs, self.by, self.writes = network, outputs, by, writes

    @torch.no_grad()
    def __call__(self, image):
        logits = self.network(torch.from_numpy(image))
        logits[:, 0] += self.by
        if self.outputs == "labels":
            return labels(logits, self.writes).numpy()
        return (probabilities(logits, self.writes) if self.outputs == "probabilities" else logits).numpy()


@pytest.mark.parametrize("more", [{}, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("outputs", ["logits", "probabilities", "labels"])
@pytest.mark.parametrize(("by", "fails"), [(0.0, False), (2e-5, False), (0.01, True), (float("nan"), True)])
def test_parity_sees_differences_above_tolerance(more, outputs, by, fails, tmp_path):
    network = Pixelwise().eval()
    job = Job(network, spec_of(**more), outputs)
    report = compare(job, Engine("other", Brighter(network, outputs, by, job.spec.writes)), tmp_path, ["a.ckpt"])
    assert bool(report.problem) == fails
    if fails:
        assert f"{outputs} at 17 x 30 differ by" in report.problem
    elif outputs == "logits":
        assert max(row.difference for row in report.rows) == pytest.approx(by, rel=0.1, abs=1e-6)


def test_parity_in_int8_is_that_of_labels(tmp_path):
    network = Pixelwise().eval()
    job = Job(network, spec_of(), precision="int8", calibration="images")
    assert not compare(job, Engine("other", Brighter(network, "logits", 0.01)), tmp_path, ["a.ckpt"]).problem
    problem = compare(job, Engine("other", Brighter(network, "logits", 5.0)), tmp_path, ["a.ckpt"]).problem
    assert "of labels at 17 x 30 agree, less than 95.0%" in problem

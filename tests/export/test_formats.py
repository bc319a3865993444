"""Every decoder in every graph format: run by independent engines, the files give the checkpoint's logits."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from jobs import REGIONS, OneBlock, images, segmenter, small_job, spec_of
from mlla_seg.data.outputs import labels, probabilities
from mlla_seg.errors import InputError
from mlla_seg.export import FORMATS, onnx, openvino, programs
from mlla_seg.export.exportable import Exportable, Job
from mlla_seg.export.parity import compare
from mlla_seg.models import create_model

SIZES = ((64, 64), (224, 224), (224, 352), (225, 257))
ANY_SIZE = [("mlla_unet", 4), ("unet", 1)]
"""Decoders whose graphs are traced for any size, which takes torch a minute each."""
ONE_SIZE = [("upernet", 4), ("segformer", 1), ("deeplabv3plus", 4)]
ALONE = """
import sys
sys.modules["mlla_seg"] = None  # cannot be imported
import numpy as np, torch
kind, path, images, output = sys.argv[1:]
if kind == "aoti":
    from torch._inductor import aoti_load_package
    run = aoti_load_package(path)
else:
    run = torch.export.load(path).module() if kind == "torch_export" else torch.jit.load(path)
with torch.inference_mode():
    results = [run(torch.from_numpy(image)).numpy() for image in np.load(images).values()]
np.savez(output, *results)
"""


@pytest.fixture
def recorded_once(monkeypatch):
    """Trace a network once for all formats of a test, since tracing is slow."""
    programs_of, record = {}, programs.exported_program

    def once(job, module, size=None, multiple=1):
        key = (id(job.network), module.outputs, size, multiple)
        if key not in programs_of:
            programs_of[key] = record(job, module, size, multiple)
        return programs_of[key]

    monkeypatch.setattr(programs, "exported_program", once)
    monkeypatch.setattr(onnx, "exported_program", once)


def run_alone(kind, path, inputs, tmp_path):
    """Results of a file, run in a process where this package cannot be imported."""
    np.savez(tmp_path / "in.npz", *[image.numpy() for image in inputs])
    command = [sys.executable, "-W", "ignore", "-c", ALONE, kind, path, tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run(list(map(str, command)), check=True, cwd=tmp_path)
    with np.load(tmp_path / "out.npz") as results:
        return [torch.from_numpy(results[name]) for name in results.files]


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "channels"), ANY_SIZE)
@torch.no_grad()
def test_every_engine_gives_the_logits_of_torch(decoder, channels, tmp_path, recorded_once, capsys):
    import onnx as onnx_library
    import onnxruntime

    network = segmenter(decoder, channels)
    job = Job(network, spec_of(channels))
    small = images(channels, ((17, 30), (32, 70)))
    inputs = [*images(channels, SIZES), *images(channels, ((40, 33),), batch=3), *small]
    expected = [network(image) for image in inputs]
    results = {}

    onnx.write_onnx(job, tmp_path / "m.onnx")
    onnx_library.checker.check_model(tmp_path / "m.onnx", full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert [entry.shape for entry in session.get_inputs()] == [["batch", channels, "height", "width"]]
    results["onnx"] = [torch.from_numpy(session.run(None, {"image": image.numpy()})[0]) for image in inputs]

    import openvino as openvino_library

    model = openvino_library.Core().read_model(tmp_path / "m.onnx")
    compiled = openvino_library.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results["openvino"] = [torch.from_numpy(compiled(image.numpy())[0].copy()) for image in inputs]

    assert programs.write_torch_export(job, tmp_path / "m.pt2").least == 33
    assert "takes heights and widths from 33 pixels on" in capsys.readouterr().err
    larger = inputs[: -len(small)]
    results["torch_export"] = run_alone("torch_export", tmp_path / "m.pt2", larger, tmp_path)
    programs.write_torchscript(job, tmp_path / "m.ts")
    results["torchscript"] = run_alone("torchscript", tmp_path / "m.ts", inputs, tmp_path)

    for engine, found in results.items():
        for one, other in zip(found, expected, strict=engine != "torch_export"):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0, msg=lambda text, name=engine: f"{name}: {text}")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize(("decoder", "channels"), ONE_SIZE)
@torch.no_grad()
def test_other_decoders_give_the_logits_of_torch(decoder, channels, tmp_path, recorded_once):
    network = segmenter(decoder, channels)
    job, module = Job(network, spec_of(channels)), Exportable(network)
    (image,) = images(channels, ((75, 75),))
    onnx.save(onnx.onnx_program(job, module, 75), tmp_path / "m.onnx", job.facts)
    found = {"onnx": onnx.checked(tmp_path / "m.onnx").run(image.numpy())}
    found["torch_export"] = programs.exported_program(job, module, 75).module()(image).numpy()
    script = programs.scripted(module)
    found["torchscript"] = script(image).numpy()
    for engine, logits in found.items():
        np.testing.assert_allclose(logits, network(image).numpy(), atol=1e-4, rtol=0, err_msg=engine)
    for image in images(channels, ((64, 64), (40, 33)), batch=3):
        torch.testing.assert_close(script(image), network(image), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("mixer", ["linear+rope", "softmax", "inline", "rala", "nc_ssd"])
@torch.no_grad()
def test_every_mixer_gives_the_logits_of_torch(mixer, tmp_path):
    network = OneBlock(mixer).eval()
    onnx.write_onnx(Job(network, spec_of()), tmp_path / "m.onnx")
    engine, script = onnx.checked(tmp_path / "m.onnx"), programs.scripted(Exportable(network))
    for image in [*images(sizes=((64, 64), (40, 32))), *images(sizes=((96, 32),), batch=3)]:
        np.testing.assert_allclose(engine.run(image.numpy()), network(image).numpy(), atol=1e-4, rtol=0)
        torch.testing.assert_close(script(image), network(image), atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize(("mixer", "name"), [("selective_ssm", "selective_ssm"), ("+forget_gate", "linear")])
@torch.no_grad()
def test_mixers_that_visit_pixels_in_turn_are_exported_as_torchscript_alone(mixer, name, tmp_path):
    network = OneBlock(mixer).eval()
    job = Job(network, spec_of())
    for write in (onnx.write_onnx, openvino.write_openvino, programs.write_torch_export, programs.write_aoti):
        with pytest.raises(InputError, match=f"^Token mixer {name} visits pixels in turn, .* --format torchscript"):
            write(job, tmp_path / "m")
    programs.write_torchscript(job, tmp_path / "m.ts")
    script = torch.jit.load(tmp_path / "m.ts")
    for image in images(sizes=((64, 64), (40, 32))):
        torch.testing.assert_close(script(image), network(image), atol=1e-4, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_code_gives_the_logits_of_torch(tmp_path):
    network = OneBlock().eval()
    job = Job(network, spec_of())
    programs.write_aoti(job, tmp_path / "m.pt2")
    inputs = [*images(sizes=((64, 64), (224, 352))), *images(sizes=((96, 32),), batch=3)]
    for found, image in zip(run_alone("aoti", tmp_path / "m.pt2", inputs, tmp_path), inputs, strict=True):
        torch.testing.assert_close(found, network(image), atol=1e-4, rtol=0)


def test_no_compiler_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler; no-such-compiler was not found"):
        programs.write_aoti(small_job(), tmp_path / "m.pt2")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("outputs", ["probabilities", "labels"])
@pytest.mark.parametrize("format", ["onnx", "torch_export", "torchscript", "openvino"])
@pytest.mark.parametrize("more", [{}, REGIONS], ids=["classes", "regions"])
@torch.no_grad()
def test_other_outputs(format, outputs, more, tmp_path):
    job = small_job(2, outputs, **more)
    engine = FORMATS[format].write(job, tmp_path / f"m{FORMATS[format].suffix}")
    assert compare(job, engine, tmp_path, ["a.ckpt"]).problem == ""
    for image in images(2):
        step = {"labels": labels, "probabilities": probabilities}[outputs]
        expected = step(job.network(image), job.spec.writes).numpy()
        found = engine.run(image.numpy())
        assert found.dtype == expected.dtype
        if outputs == "labels":
            assert (found == expected).mean() > 0.9999
        else:
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("format", ["torch_export", "torchscript", "openvino"])
def test_files_say_what_the_network_knows(format, tmp_path):
    import json

    job = small_job(2)
    path = tmp_path / f"m{FORMATS[format].suffix}"
    FORMATS[format].write(job, path)
    if format == "openvino":
        import openvino as library

        model = library.Core().read_model(path)
        facts = {key: model.get_rt_info([openvino.RT_INFO, key]).astype(str) for key in job.facts}
    else:
        files = {programs.FACTS: ""}
        if format == "torch_export":
            torch.export.load(path, extra_files=files)
        else:
            torch.jit.load(path, _extra_files=files)
        facts = json.loads(files[programs.FACTS])
    assert facts == job.facts


def test_what_torchscript_cannot_take_is_named(tmp_path):
    job = Job(segmenter("unetplusplus"), spec_of())
    with pytest.raises(InputError, match=r"TorchScript does not support this network \(.+\)\. Export it with"):
        programs.write_torchscript(job, tmp_path / "m.ts")


def test_openvino_keeps_weights_in_half_precision_when_asked(tmp_path):
    openvino.write_openvino(small_job(4), tmp_path / "full.xml")
    openvino.write_openvino(small_job(4, precision="float16"), tmp_path / "half.xml")
    assert (tmp_path / "half.bin").stat().st_size < 0.7 * (tmp_path / "full.bin").stat().st_size


def test_no_file_tells_where_this_machine_keeps_its_code(tmp_path):
    job = small_job()
    for format in ("onnx", "torch_export", "openvino"):
        FORMATS[format].write(job, tmp_path / f"{format}{FORMATS[format].suffix}")
    for path in tmp_path.iterdir():
        assert b"site-packages" not in path.read_bytes(), path


def test_files_of_framed_networks_and_of_convolutions_take_small_images():
    for network in (create_model("mlla_test", "fpn", 3, 1, frame=(64, 64)).eval(), small_job().network):
        program = programs.exported_program(small_job(), Exportable(network))
        assert programs.smallest_side(program) == 1
        image = images(1, ((17, 30),))[0]
        with torch.no_grad():
            torch.testing.assert_close(program.module()(image), network(image), atol=1e-4, rtol=0)


def test_torchscript_holds_no_paths_of_source_files(tmp_path):
    path = tmp_path / "model.ts"
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.GELU())
    with path.open("wb") as file:
        programs.save_scripted(programs.scripted(network), file, {"mlla_seg.json": "{}"})
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    assert not [name for name, found in content.items() if b"site-packages" in found or b"/torch/nn" in found]
    assert [found for name, found in content.items() if name.endswith("version")] == [b"10\n"]  # of its operators
    extra = {"mlla_seg.json": ""}
    image = torch.rand(1, 1, 3, 3)
    assert torch.equal(torch.jit.load(path, _extra_files=extra)(image), network(image))
    assert extra["mlla_seg.json"] == b"{}"

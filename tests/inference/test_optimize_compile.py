"""Compiled networks equal the original: linear layers as convolutions, compiled for one image size."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from conftest import shared
from jobs import OneBlock, Pixelwise, segmenter, spec_of
from mlla_seg import Predictor, create_model
from mlla_seg.errors import InputError
from mlla_seg.inference import optimize_compile
from mlla_seg.inference.optimize import PRECISIONS, Autocast, for_inference
from mlla_seg.inference.optimize_compile import CompiledForward, as_convolutions, compile_segmenters
from mlla_seg.models import DECODERS
from mlla_seg.models.ensemble import Ensemble, Flips
from mlla_seg.models.mixers import MIXERS


def image(*shape, seed=0):
    return 20 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 40


def as_code(network):
    code = copy.deepcopy(network)
    as_convolutions(code)
    return code


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ["mlla_test", "timm/resnet10t"])
@torch.inference_mode()
def test_convolutions_change_nothing(encoder, decoder):
    torch.manual_seed(0)
    network = create_model(encoder, decoder, num_classes=3, in_channels=2).double().eval()
    code = as_code(network)
    for size in ((64, 96), (33, 70), (1, 1)):
        x = image(2, 2, *size).double()
        torch.testing.assert_close(code(x), network(x), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@torch.inference_mode()
def test_convolutions_in_half_precision(precision):
    network = segmenter()
    x = image(2, 1, 64, 96)
    code = Autocast(as_code(network), PRECISIONS[precision])
    error = (code(x) - network(x)).norm() / network(x).norm()
    assert 0 < error < (0.03 if precision == "bf16" else 0.004)


@pytest.mark.parametrize("mixer", MIXERS)
@torch.inference_mode()
def test_convolutions_of_every_mixer_change_nothing(mixer):
    network = create_model("mlla_test", num_classes=3, in_channels=2, mixer=mixer).double().eval()
    x = image(2, 2, 33, 64).double()
    torch.testing.assert_close(as_code(network)(x), network(x), atol=1e-9, rtol=1e-9)


def test_networks_of_volumes_are_refused_before_an_image_is_read(tmp_path):
    network = create_model("mlla_test", "mlla_unet", 2, dims=3, decoder_depths=(1, 1, 1))
    with pytest.raises(
        InputError, match=r"--compile on CPUs is for networks of slices and images, .* volumes: run without"
    ):
        for_inference(network, compile=True, compile_cache=tmp_path / "cache")


def test_mixers_that_visit_pixels_in_turn_are_not_compiled():
    network = create_model("mlla_test", mixer="selective_ssm")
    with pytest.raises(InputError, match=r"^Token mixer selective_ssm visits pixels in turn, .* run without\.$"):
        compile_segmenters(network)


@torch.inference_mode()
def test_convolutions_of_vectors_change_nothing():
    linear = nn.Linear(5, 3).double()
    for shape in ((5,), (2, 5), (2, 3, 4, 5), (2, 1, 3, 4, 5)):
        x = torch.randn(*shape).double()
        torch.testing.assert_close(as_code(linear)(x), linear(x), atol=1e-12, rtol=0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Code is kept for this run of the tests alone."""
    with shared(tmp_path_factory, "cache") as (folder, _):
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.mark.slow
def test_a_compiled_network_labels_as_the_network_does(capsys):
    network, spec = segmenter(), spec_of()
    plain, fast = Predictor(network, spec), Predictor(network, spec, compile=True)
    volume = image(3, 1, 32, 32).numpy()
    assert (fast(volume, batch_size=2) == plain(volume, batch_size=2)).all()  # two at a time, and one left over
    assert len(set(plain(volume).flat)) > 1
    assert (
        "Compiling for images of 32 x 32 pixels, 2 at a time, which takes one to two minutes;"
        in capsys.readouterr().err
    )
    others = image(2, 1, 32, 32, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(fast.fast(others), network(others), atol=1e-5, rtol=0)
        torch.testing.assert_close(fast.fast(others.mT), network(others.mT), atol=1e-5, rtol=0)  # other strides


@torch.no_grad()
def test_other_sizes_go_through_uncompiled(capsys):
    network = Pixelwise().eval()
    fast, strips = for_inference(network, compile=True), for_inference(network)
    first, large, odd = image(2, 1, 32, 32), image(1, 1, 48, 32), image(5, 1, 32, 32)
    for x in (first, large, large, odd):
        torch.testing.assert_close(fast(x), network(x), atol=1e-5, rtol=0)
    assert (fast(large) == strips(large)).all()
    assert capsys.readouterr().err.count("note: images of other sizes run uncompiled.") == 1


@torch.no_grad()
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_float32_near_the_exact_logits(precision):
    network = OneBlock().eval()
    x = image(1, 1, 32, 32)
    logits, expected = for_inference(network, precision=precision, compile=True)(x), network.double()(x.double())
    assert logits.dtype == torch.float32
    assert 0 < (logits - expected).norm() / expected.norm() < (0.03 if precision == "bf16" else 0.004)


def test_it_is_the_segmenters_that_are_compiled():
    whole = for_inference(Flips(Ensemble([segmenter(), segmenter("unet")]), ["rows", "columns"]), compile=True)
    names = [name for name, module in whole.named_modules() if isinstance(module.forward, CompiledForward)]
    assert names == ["network.members.0", "network.members.1"]
    assert isinstance(for_inference(Pixelwise(), compile=True).forward, CompiledForward)


PARTS = [((4, 96, 96), 4), ((16, 224, 224), 4), ((7, 224, 224), 1), ((2, 900, 900), 1), ((6, 300, 290), 3)]


@pytest.mark.parametrize(("shape", "count"), PARTS)
def test_batches_are_taken_in_equal_parts(shape, count):
    images, height, width = shape
    assert len(optimize_compile.equal_part(torch.empty(images, 1, height, width))) == count


def test_no_compiler_is_said_in_a_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"--compile needs a C\+\+ compiler; no-such-compiler was not found\."):
        for_inference(Pixelwise(), compile=True)


BROKEN = """
import torch
from mlla_seg.errors import InputError
from mlla_seg.inference.optimize import for_inference

try:
    for_inference(torch.nn.Conv2d(1, 3, 3), compile=True)(torch.ones(1, 1, 32, 32))
except InputError as error:
    print(error)
"""


def test_a_broken_compiler_is_said_in_a_line(tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    # In a process of its own: torch remembers its compiler.
    environment = {**os.environ, "CXX": str(compiler), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", BROKEN]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.startswith("This network cannot be compiled here; run without --compile: ")
    assert said.count("\n") == 1

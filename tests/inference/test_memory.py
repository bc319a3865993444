"""Out of memory: fewer images at once, then strips, then a line that names the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from forks import begin, end, limit_memory
from jobs import Pixelwise, images, segmenter, small_job, spec_of
from maps import Bright
from mlla_seg import Predictor
from mlla_seg.errors import InputError
from mlla_seg.export.onnx import write_onnx
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.memory import is_out_of_memory
from mlla_seg.inference.optimize import need_less_memory
from mlla_seg.inference.optimize_compile import CompiledForward
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.inference.steps import network_logits
from mlla_seg.progress import note_once
from mlla_seg.runtime import Segmenter

MIB = 2**20


@pytest.fixture(autouse=True)
def notes():
    note_once.cache_clear()


class Hungry(Bright):
    """Refuses more images at once than fit, as torch and others do."""

    def __init__(self, most, error):
        super().__init__()
        self.most, self.error, self.seen = most, error, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.most:
            raise self.error
        return super().forward(x)


CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
)
ERRORS = [
    CPU,
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("std::bad_alloc"),
    MemoryError("Unable to allocate 9.00 GiB for an array with shape (3, 20000, 20000) and data type float64"),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_fewer_images_at_once_are_tried_and_kept_to_and_said_once(error, capsys):
    network = Hungry(2, error)
    engine = TorchEngine(network)
    batch = torch.rand(11, 1, 8, 9) * 255
    for _ in range(2):
        np.testing.assert_array_equal(network_logits(engine, batch), Bright()(batch))
    assert network.seen == [11, 5, *[2] * 5, 1, *[2] * 5, 1]
    said = capsys.readouterr().err
    assert said.count("note: 11 images of 8 x 9 pixels at once do not fit into memory; going on with fewer.") == 1
    assert said.count("note") == 1


def test_other_errors_are_no_lack_of_memory():
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), InputError("out of memory")):
        assert not is_out_of_memory(error)
    with pytest.raises(RuntimeError, match="no kernel"):
        network_logits(TorchEngine(Hungry(0, RuntimeError("no kernel image"))), torch.zeros(4, 1, 8, 8))


def test_an_image_that_does_not_fit_at_all_is_named_and_the_others_have_masks(tmp_path):
    (tmp_path / "in").mkdir()
    for name, size in (("a", 8), ("b", 30)):
        np.savez(tmp_path / f"in/{name}.npz", image=np.zeros((2, size, size), np.float32))

    class Small(Pixelwise):
        def forward(self, x):
            if x.shape[-1] > 20:
                raise CPU
            return super().forward(x)

    with pytest.raises(InputError, match=r"1 of 2 images have no mask:\n.*b\.npz: does not fit into memory \(not eno"):
        segment_files(Predictor(Small(), spec_of()), tmp_path / "in", tmp_path / "out", MapOptions())
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["a.npz"]


def test_strips_are_the_last_resort_of_a_network_of_ones_own(capsys):
    network = segmenter()
    (batch,) = images(sizes=((64, 64),))
    expected = network(batch).detach()

    class Whole(torch.nn.Module):
        """A network that fits only strip by strip."""

        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            if "classify" not in vars(self.inner):
                raise CPU
            return self.inner(x)

    with pytest.raises(MemoryError, match="one image of 64 x 64 pixels"):
        network_logits(TorchEngine(Whole()), batch)
    found = network_logits(TorchEngine(Whole(), own=True), batch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert "note: one image of 64 x 64 pixels does not fit into memory; going on strip by strip." in (
        capsys.readouterr().err
    )
    assert not need_less_memory(network)
    network.forward = CompiledForward(network, network.forward, Path())
    assert need_less_memory(network)
    torch.testing.assert_close(network(batch).detach(), expected, atol=1e-4, rtol=0)


class Wide(Pixelwise):
    """A network whose feature maps need 64 values per pixel."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Sequential(torch.nn.Conv2d(1, 64, 1), torch.nn.ReLU(), torch.nn.Conv2d(64, 3, 1))


@pytest.mark.parametrize("library", ["torch", "onnxruntime"])
def test_a_volume_that_needs_more_than_the_system_gives_is_segmented_nevertheless(tmp_path, library):
    volume = np.random.default_rng(0).normal(40, 20, (8, 256, 256)).astype(np.float32)
    np.savez(tmp_path / "ct.npz", image=volume)
    torch.manual_seed(0)
    job = replace(small_job(), network=Wide().eval())
    if library == "torch":
        one = Predictor(job.network, job.spec)
    else:
        write_onnx(job, tmp_path / "m.onnx")
        one = Segmenter(tmp_path / "m.onnx", threads=1)
    one(np.zeros((1, 1, 32, 32), np.float32))
    one.identity  # noqa: B018 - reads the weights before memory is short
    segment_files(one, tmp_path / "ct.npz", tmp_path / "whole.npz", MapOptions(batch_size=1))

    def short_of_memory():
        limit_memory(100 * MIB)
        segment_files(one, tmp_path / "ct.npz", tmp_path / "out.npz", MapOptions(batch_size=8))
        assert one.engine.most is not None

    assert end(begin(short_of_memory)) == 0
    np.testing.assert_array_equal(*(np.load(tmp_path / f"{name}.npz")["label"] for name in ("whole", "out")))

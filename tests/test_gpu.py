"""A GPU gives the results of CPUs: networks of every decoder, half precision, compiled code, training."""

from __future__ import annotations

import pytest
import torch

from conftest import ROOT
from jobs import segmenter
from mlla_seg.inference.optimize import for_inference
from mlla_seg.models import DECODERS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
DEVICE = "cuda"


@pytest.fixture(autouse=True)
def exact(monkeypatch, tmp_path):
    """Matrix products in float32, and code kept for this test alone."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def image():
    return 20 * torch.randn(2, 1, 64, 96, generator=torch.Generator().manual_seed(0)) + 40


def difference(network, **how):
    """Relative difference of the logits on the GPU from those on the CPU in float64."""
    with torch.inference_mode():
        expected = network.double()(image().double())
        found = for_inference(network.float(), DEVICE, **how)(image().to(DEVICE)).cpu()
    return (found - expected).norm() / expected.norm()


@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_are_those_of_the_cpu(decoder):
    assert difference(segmenter(decoder)) < 1e-4


@pytest.mark.parametrize(("precision", "most"), [("bf16", 0.03), ("fp16", 0.004)])
def test_logits_in_half_precision(precision, most):
    assert difference(segmenter(), precision=precision) < most


def test_compiled_code():
    assert difference(segmenter(), compile=True) < 1e-4


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_lowers_the_loss(cli, phantom_root, tmp_path, precision):
    words = ["--trainer.accelerator=gpu", "--trainer.devices=1", "--trainer.max_epochs=3", "--data.num_workers=0"]
    words += [f"--data.root={phantom_root}", "--data.crop=[32,32]", f"--trainer.precision={precision}"]
    cli("fit", f"--config={ROOT / 'configs/demo.yaml'}", *words, "--data.batch_size=8", "--trainer.strategy=ddp")
    header, *rows = (tmp_path / "runs/demo/version_0/metrics.csv").read_text().splitlines()
    at = header.split(",").index("train/loss")
    losses = [float(row.split(",")[at]) for row in rows if row.split(",")[at]]
    assert losses[-1] < losses[0]

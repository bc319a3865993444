"""Code of a compiled network, made once for all tests of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import shared
from jobs import Pixelwise
from mlla_seg.inference.compile_cache import package_name
from mlla_seg.inference.optimize import for_inference

IMAGE = 20 * torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) + 40
"""Two images, for which the network is compiled."""


def make_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package of :class:`Pixelwise`, as another process has left it."""
    with shared(tmp_path_factory, "cache") as (folder, _), torch.inference_mode():
        network = Pixelwise().eval()
        cache = folder / "mlla_seg/compiled"  # which tests/inference/test_optimize_compile.py fills too
        for_inference(network, compile=True, compile_cache=cache)(IMAGE)
        return cache / package_name(for_inference(network), IMAGE)

"""Batch size and pace of a training on this machine, measured with real steps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlla_seg.benchmark.measures import free_bytes, training_bytes
from mlla_seg.training.module import SegmentationModule

SHARE = 0.5
"""Fraction of the free memory that a training may take."""


@dataclass(frozen=True)
class Budget:
    """What a training costs on this machine."""

    batch_size: int
    seconds: float
    """Time of a step."""
    gigabytes: float
    """Memory of a step: what is kept for the backward pass, parameters, gradients and moments."""


def measure(module: SegmentationModule, sample: Tensor, largest: int, device: torch.device) -> Budget:
    """Measure the largest batch size that fits, and a step of that size.

    Args:
        module: The module to train.
        sample: One training image ``(C, H, W)``.
        largest: Batch size to begin with; it is halved until half the free memory suffices.
        device: Where to train.
    """
    network = module.network.to(device).train()
    image = sample[None].to(device)
    fixed, each = training_bytes(network, image)
    free, batch_size = free_bytes(device), largest
    while batch_size > 1 and fixed + each * batch_size > SHARE * free:
        batch_size //= 2
    images = image.expand(batch_size, -1, -1, -1)
    seconds = min(_step(network, images, device) for _ in range(2))  # the first one also warms up
    return Budget(batch_size, seconds, (fixed + each * batch_size) / 1e9)


def _step(network: Any, images: Tensor, device: torch.device) -> float:
    started = time.perf_counter()
    network(images).float().square().mean().backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    network.zero_grad()
    return time.perf_counter() - started

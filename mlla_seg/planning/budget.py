"""Batch size and pace of a training on this machine, measured with real steps."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlla_seg.benchmark.measures import free_bytes, training_bytes
from mlla_seg.planning.choices import Choice, Section
from mlla_seg.training.module import SegmentationModule

SHARE = 0.5
"""Fraction of the free memory that a training may take."""
LARGEST_BATCH = 24
PIXELS = 8 * 256 * 256
"""Most pixels or voxels of a batch on CPUs."""
VALIDATIONS = 12
"""Validations during a training."""
BUSY = 2.0
"""Programs that want to run, per core, above which a measured time says little."""


@dataclass(frozen=True)
class Budget:
    """What a training costs on this machine."""

    batch_size: int
    seconds: float
    """Time of a step."""
    gigabytes: float
    """Memory of a step: what is kept for the backward pass, parameters, gradients and moments."""

    @property
    def in_words(self) -> str:
        """Time and memory of a step."""
        return f"{self.seconds:.2f} s and {self.gigabytes:.1f} GB a step, measured on this machine"


def measure(module: SegmentationModule, sample: Tensor, largest: int, device: torch.device) -> Budget:
    """Measure the largest batch size that fits, and a step of that size.

    Args:
        module: The module to train.
        sample: One training image ``(C, H, W)``, or a patch of a volume ``(C, D, H, W)``.
        largest: Batch size to begin with; it is halved until half the free memory suffices.
        device: Where to train.
    """
    network = module.network.to(device).train()
    image = sample[None].to(device)
    fixed, each = training_bytes(network, image)
    free, batch_size = free_bytes(device), largest
    while batch_size > 1 and fixed + each * batch_size > SHARE * free:
        batch_size //= 2
    images = image.expand(batch_size, *image.shape[1:])
    seconds = min(_step(network, images, device) for _ in range(2))  # the first one also warms up
    return Budget(batch_size, seconds, (fixed + each * batch_size) / 1e9)


def _step(network: Any, images: Tensor, device: torch.device) -> float:
    started = time.perf_counter()
    network(images).float().square().mean().backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    network.zero_grad()
    return time.perf_counter() - started


def busy(budget: Budget, device: str) -> list[str]:
    """Return a sentence if other programs took the processors while a step was measured on them."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if device != "cpu" or load < BUSY * cores:
        return []
    return [
        f"Other programs ran (load {load:.0f} on {cores} cores), so a step may take less than the {budget.seconds:.1f} "
        "s that were measured: then raise check_val_every_n_epoch in the config."
    ]


def pace(budget: Budget, samples: int, minutes: float) -> Section:
    """Return the length of the training and how often it is validated."""
    epochs = _epochs(budget, samples, minutes)
    told = f"about {60 * minutes / budget.seconds:,.0f} steps, {epochs:,.1f} times all {samples:,} samples"
    every = max(1, round(epochs / VALIDATIONS))
    count = int(epochs / every)
    return {
        "max_time": Choice(duration(minutes), f"{told}; the learning rate ends with the time"),
        "check_val_every_n_epoch": Choice(every, f"about {count} validations" if count else "too short to validate"),
    }


def too_short(budget: Budget, samples: int, minutes: float) -> list[str]:
    """Return a sentence if a training ends before it has seen all samples once, after which it is validated."""
    if (epochs := _epochs(budget, samples, minutes)) >= 1:
        return []
    return [
        f"In {minutes:g} min only {epochs:.1f} of all samples are seen: the training ends before its first validation, "
        f"without a best.ckpt. Plan again with --minutes {math.ceil(VALIDATIONS * minutes / epochs)} for {VALIDATIONS} "
        "validations, or test --ckpt_path last."
    ]


def _epochs(budget: Budget, samples: int, minutes: float) -> float:
    return 60 * minutes / max(1.0, samples / budget.batch_size) / budget.seconds


def duration(minutes: float) -> str:
    """Return minutes as Lightning writes a time: days, hours, minutes, seconds."""
    hours, rest = divmod(round(minutes), 60)
    return f"{hours // 24:02d}:{hours % 24:02d}:{rest:02d}:00"

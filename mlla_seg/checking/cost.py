"""Time and memory of a training step and an epoch on this machine, measured with a real step."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch.utils.data import default_collate

from mlla_seg.benchmark.measures import free_bytes, training_bytes
from mlla_seg.checking.findings import Cost
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.errors import InputError
from mlla_seg.training.module import SegmentationModule

QUICK = 5.0
"""Seconds below which a step is measured again, as the first one also warms up."""


def measure(data: SegmentationDataModule, module: SegmentationModule) -> Cost:
    """Measure a training step with the batch size of the config.

    Args:
        data: The data, set up for fit.
        module: The module to train.

    Raises:
        InputError: The step does not fit into memory.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = len(data.train_dataloader())
    started = time.perf_counter()
    samples = data.batch_size * (1 if data.unlabelled is None else 2)  # as many without labels; their teacher apart
    batch = default_collate([data.train_set[0, k % len(data.train_set)] for k in range(samples)])
    loading = time.perf_counter() - started
    module.setup("fit")
    module.to(device).train()
    batch = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    free = free_bytes(device)
    fixed, each = training_bytes(module.network, batch["image"][:1])
    needed = fixed + each * samples
    if needed > free:
        raise InputError(
            f"A step of batch size {data.batch_size} needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free "
            f"({device.type}). Lower --data.batch_size or --data.crop, or set --model.checkpoint_stages all."
        )
    optimizer = torch.optim.AdamW(module.network.parameters(), lr=0.0)
    seconds = _step(module, optimizer, batch, device)
    if seconds < QUICK:
        seconds = min(seconds, _step(module, optimizer, batch, device))
    if device.type == "cuda":
        needed = torch.cuda.max_memory_allocated(device)
    workers = data.num_workers
    pace = max(seconds, loading / workers) if workers else seconds + loading
    free_gb = free / 1e9 if math.isfinite(free) else None
    return Cost(str(device), data.batch_size, seconds, loading, workers, needed / 1e9, free_gb, steps, pace * steps)


def _step(module: SegmentationModule, optimizer: Any, batch: dict[str, Any], device: torch.device) -> float:
    started = time.perf_counter()
    module.training_step(batch, 0).backward()
    optimizer.step()
    optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started

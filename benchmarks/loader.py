"""Slices per second that the loader gives, against what training consumes: python benchmarks/loader.py CONFIG.

Both in one process, one after the other, medians over batches; the ratio is what matters, machines differ.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import yaml

from mlla_seg import SegmentationDataModule, SegmentationModule

BATCHES = 12
SKIPPED = 2  # the first batches pay for starting workers and warming caches


def rates(durations: list[float], batch_size: int) -> float:
    """Median slices per second."""
    return batch_size / statistics.median(durations[SKIPPED:])


def main() -> None:
    config = yaml.safe_load(Path(sys.argv[1]).read_text())
    data = SegmentationDataModule(**config["data"])
    data.prepare_data()
    data.setup("fit")
    module = SegmentationModule(**config["model"], spec=data.spec)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    # One iterator, and nothing consumed between batches: the pace of the workers alone.
    durations, batches = [], []
    started = time.perf_counter()
    for batch in data.train_dataloader():
        durations.append(time.perf_counter() - started)
        batches.append(batch)
        started = time.perf_counter()
        if len(durations) == BATCHES:
            break
    # Workers have loaded ahead while the first batch was waited for: count all the time for all the batches.
    loader = data.batch_size * (len(durations) - 1) / sum(durations[1:])

    durations = []
    for batch in batches:
        started = time.perf_counter()
        loss = module.loss(module(batch["image"]), batch["mask"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        durations.append(time.perf_counter() - started)
    network = rates(durations, data.batch_size)

    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"loader   {loader:8.0f} slices/s with {data.num_workers} workers")
    print(f"network  {network:8.0f} slices/s in training")
    print(f"ratio    {loader / network:8.1f}")


if __name__ == "__main__":
    main()

"""Throughput of data loading compared with training: python benchmarks/loader.py CONFIG.

Measures slices per second read and augmented by one core, delivered by the loader with its workers, and consumed by
training on this machine, and the time to predict and score a validation case. All are medians from one process;
absolute numbers depend on the machine, ratios less so. The last lines estimate the cores needed to feed a GPU.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time

import torch
from torch.utils.data import Dataset

from mlla_seg import SegmentationDataModule, SegmentationModule
from mlla_seg.data.shipped import read_config
from mlla_seg.evaluation.overlap import case_confusion
from mlla_seg.training.config_sections import data_options

BATCHES = 12
SKIPPED = 2  # the first batches include starting workers and warming caches


def rates(durations: list[float], batch_size: int) -> float:
    """Return the median slices per second."""
    return batch_size / statistics.median(durations[SKIPPED:])


def one_core(data: Dataset[object]) -> float:
    """Return the median seconds per slice in this process."""
    durations = []
    for i in torch.randint(len(data), (200,), generator=torch.Generator().manual_seed(0)).tolist():
        started = time.perf_counter()
        data[i]
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def main() -> None:
    config = read_config(sys.argv[1])
    options = data_options(config)
    data = SegmentationDataModule(**options)
    data.prepare_data()
    data.setup("fit")
    torch.set_num_threads(1)
    plain = SegmentationDataModule(**{**options, "augment": "none"})
    plain.setup("fit")
    reading, all_of_it = one_core(plain.train_set), one_core(data.train_set)
    torch.set_num_threads(os.cpu_count() or 1)
    module = SegmentationModule(**config["model"], spec=data.spec)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    # One iterator and no work between batches measures the workers alone.
    durations, batches = [], []
    started = time.perf_counter()
    for batch in data.train_dataloader():
        durations.append(time.perf_counter() - started)
        batches.append(batch)
        started = time.perf_counter()
        if len(durations) == BATCHES:
            break
    # Workers prefetch while the first batch is awaited, so use the total time of all other batches.
    loader = data.batch_size * (len(durations) - 1) / sum(durations[1:])

    durations = []
    for batch in batches:
        started = time.perf_counter()
        loss = module.loss(module.network.segment(batch["image"]), batch["mask"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        durations.append(time.perf_counter() - started)
    network = rates(durations, data.batch_size)

    case = data.val_set[0]
    module.eval()
    started = time.perf_counter()
    module.predict_case(case["image"])
    predicting = time.perf_counter() - started
    started = time.perf_counter()
    case_confusion(case["mask"], case["mask"], len(data.spec.classes))
    scoring = time.perf_counter() - started

    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"one core {1 / reading:8.0f} slices/s read, {1 / all_of_it:.0f} with augmentation")
    print(f"         {1e3 * (all_of_it - reading):8.2f} ms of augmentation per slice")
    print(f"loader   {loader:8.0f} slices/s with {data.num_workers} workers")
    print(f"network  {network:8.0f} slices/s in training")
    print(f"ratio    {loader / network:8.1f}")
    print(f"a case   {predicting:8.2f} s to predict {len(case['image'])} slices, {scoring:.3f} s to count")
    for pace in (100, 400, 1600):
        print(f"a GPU that trains {pace} slices/s needs {pace * all_of_it:.1f} of these cores")


if __name__ == "__main__":
    main()

"""What checksums cost a training checkpoint: python benchmarks/checkpoints.py [ENCODER].

Saves weights, moments of AdamW and their average as ``fit`` does, with and without the checksums (CRC-32) that torch
writes, and checks and loads the file as every command does. Seconds are those of the processor, the median of five;
waiting for the disk comes on top and is the same with and without.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mlla_seg import create_model
from mlla_seg.checksums import require_intact_archive
from mlla_seg.training.saving import DurableCheckpointIO

RUNS = 5


def seconds(job: Callable[[Path], object], folder: Path) -> float:
    """Return the median processor time of a function, each time for a file of its own."""
    found = []
    for k in range(RUNS):
        started = time.process_time()
        job(folder / f"{k}.ckpt")
        found.append(time.process_time() - started)
    return statistics.median(found)


def main() -> None:
    network = create_model(sys.argv[1] if sys.argv[1:] else "mlla_tiny", "mlla_unet", num_classes=9, in_channels=1)
    weights = network.state_dict()
    moments = [{key: value.clone() for key, value in weights.items()} for _ in range(2)]
    content = {"state_dict": weights, "optimizer_states": moments, "current_model_state": dict(weights)}
    with tempfile.TemporaryDirectory() as temporary:
        folder, times = Path(temporary), {}
        for name, checksums in (("without", False), ("with", True)):
            torch.serialization.set_crc32_options(checksums)
            times[f"save {name}"] = seconds(lambda path: DurableCheckpointIO().save_checkpoint(content, path), folder)
        times["check"] = seconds(require_intact_archive, folder)
        times["load"] = seconds(lambda path: torch.load(path, weights_only=True), folder)
        size = (folder / "0.ckpt").stat().st_size / 1e6
    print(f"{size:.0f} MB; seconds: " + ", ".join(f"{name} {value:.3f}" for name, value in times.items()))


if __name__ == "__main__":
    main()

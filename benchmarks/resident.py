"""Resident memory of segmenting one image: python benchmarks/resident.py [SIDE] (default 1024).

Runs MLLA-UNet tiny as published, as in predict, and compiled, each in a separate process, and prints the peak resident
memory of a second image above the memory before it, in bytes per pixel. Linux only.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import re
import sys
from pathlib import Path

import torch

from mlla_seg.benchmark.definition import definitional
from mlla_seg.benchmark.networks import our_network
from mlla_seg.inference.optimize import for_inference

WAYS = {
    "published sequence of operations": definitional,
    "predict": for_inference,
    "predict --precision bf16": lambda network: for_inference(network, precision="bf16"),
    "predict --compile true": lambda network: for_inference(network, compile=True),
    "predict with both": lambda network: for_inference(network, precision="bf16", compile=True),
}


def status(name: str) -> int:
    """Return a size from /proc/self/status in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


@torch.inference_mode()
def measure(way: str, side: int) -> None:
    """Print the peak memory of ``way`` for a square image of ``side`` pixels."""
    run = WAYS[way](our_network("mlla_tiny", "mlla_unet").eval())
    image = torch.randn(1, 3, side, side)
    run(image)  # compiles
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    run(image)
    print(f"{way:>34}: {(status('VmHWM') - before) / side**2:.0f} bytes per pixel", flush=True)


def main() -> None:
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    for way in WAYS:
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(way, side))
        process.start()
        process.join()


if __name__ == "__main__":
    main()

"""What a network costs: time, memory, multiplications, and bytes kept for the backward pass."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def saved_bytes(network: nn.Module, image: Tensor) -> int:
    """Bytes that a training step keeps between forward and backward, without parameters and buffers.

    Args:
        network: Maps the image to logits.
        image: ``(B, C, H, W)``.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(image).float().square().mean()
    return sum(sizes.values())


def macs(network: nn.Module, image: Tensor) -> int:
    """Multiplications with additions of one forward pass; those of convolutions and products of matrices."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() // 2


def interleaved(runs: Sequence[Callable[[], object]], repeats: int = 5) -> list[float]:
    """Median seconds of each run; they take turns, so that what slows the machine slows them all, after one for all."""
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, own in zip(runs, times, strict=True):
            started = time.perf_counter()
            run()
            own.append(time.perf_counter() - started)
    return [statistics.median(own) for own in times]


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024

"""Time, memory and saved activations of networks."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mlla_seg.data.formats.claims import free_memory


def saved_bytes(network: nn.Module, image: Tensor) -> int:
    """Return the bytes saved for the backward pass, without parameters and buffers.

    Args:
        network: Maps the image to logits.
        image: ``(B, C, H, W)``.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(image).float().square().mean()
    return sum(sizes.values())


def training_bytes(network: nn.Module, image: Tensor) -> tuple[int, int]:
    """Return the bytes that training needs whatever the batch size, and the bytes for each image.

    The former hold weights, gradients and two moments of the optimiser, the latter what is saved for the backward pass.

    Args:
        network: In training mode; maps images to logits.
        image: ``(1, C, H, W)``.
    """
    pair = torch.cat((image, image))  # batch norm needs more than one value
    return 4 * sum(parameter.nbytes for parameter in network.parameters()), saved_bytes(network, pair) // 2


def free_bytes(device: torch.device) -> float:
    """Return the free memory of a device in bytes; infinite if it is unknown."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


class _Allocations(TorchDispatchMode):
    """Tracks the bytes of all live tensors created by operations."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            key = storage.data_ptr()
            if key not in before and key not in self.alive:
                self.alive[key] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, key, None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def peak_bytes(network: Callable[[Tensor], object], image: Tensor) -> int:
    """Return the peak bytes of tensors during inference, without parameters, image and workspaces of libraries.

    Args:
        network: Maps the image to logits.
        image: ``(B, C, H, W)``.
    """
    with torch.inference_mode(), _Allocations() as allocations:
        network(image)
    return allocations.peak


def interleaved(
    runs: Sequence[Callable[[], object]], repeats: int = 5, tick: Callable[[], object] = lambda: None
) -> list[float]:
    """Return the median seconds of each run; runs are interleaved, so that other load affects all alike.

    Args:
        runs: Functions to time.
        repeats: Timed rounds, after one warm-up round.
        tick: Called after every run.
    """
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats + 1):
        for run, own in zip(runs, times, strict=True):
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn > 0:
                own.append(time.perf_counter() - started)
            tick()
    return [statistics.median(own) for own in times]

"""Communication between training processes: differentiable sums, synchronised batch norm and seeds.

With the same global batch, which ``data/batches.py`` divides among them, N devices train exactly as one would.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlla_seg.models.ops import at_least_float32


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # Each process's input contributed to the loss of every process.
        grad = grad.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(grad)
        return grad


def sum_over_processes(x: Tensor) -> Tensor:
    """Return the sum of ``x`` over all processes (all-reduce); differentiable, and ``x`` itself with a single process.

    A loss computed from such sums is the loss of the global batch in every process, and DDP's mean of the gradients
    over processes is its exact gradient.
    """
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        return _SumOverProcesses.apply(x)
    return x


def mean_over_processes(x: Tensor) -> Tensor:
    """Return the mean of ``x`` over all processes, as :func:`sum_over_processes` does the sum."""
    several = distributed.is_available() and distributed.is_initialized()
    return sum_over_processes(x) / (distributed.get_world_size() if several else 1)


def gathered(values: Sequence[Any]) -> list[Any]:
    """Return the concatenated values of all processes; a collective call that every process must make."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return list(values)
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, list(values))
    return [value for part in parts for value in part]


class CpuSyncBatchNorm(_BatchNorm):
    """Synchronised batch norm of images and volumes on CPU, which torch.nn.SyncBatchNorm does not support."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of axes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not distributed.is_initialized():
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        values = at_least_float32(x).transpose(0, 1).flatten(1)  # (C, B * voxels)
        count = sum_over_processes(values.new_tensor([values.shape[1]]))
        mean = sum_over_processes(values.sum(dim=1)) / count
        var = sum_over_processes((values - mean[:, None]).square().sum(dim=1)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = self.weight / torch.sqrt(var + self.eps)
        shift = self.bias - mean * scale
        shape = (-1, *[1] * (x.dim() - 2))
        return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)


def convert_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm by a synchronised one: torch's on accelerators, :class:`CpuSyncBatchNorm` on CPU."""
    if next(module.parameters()).device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for child in module.modules():
        if type(child) in (nn.BatchNorm2d, nn.BatchNorm3d):
            child.__class__ = CpuSyncBatchNorm  # same parameters and buffers, different forward
    return module


def step_seed(seed: int, rank: int, epoch: int, batch: int) -> int:
    """Return a seed for the random draws of one step in one process, such as stochastic depth.

    It depends on these four numbers alone, so that a resumed run continues exactly as the uninterrupted run would.
    """
    return int(np.random.SeedSequence((seed, rank, epoch, batch)).generate_state(1, np.uint64)[0] >> 1)

"""Communication between training processes: differentiable sums, synchronised batch norm and seeds.

With the same global batch, which ``data/batches.py`` divides among them, N devices train exactly as one would.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlla_seg.errors import InputError
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


class _SynchronisedOnCpu(_BatchNorm):
    """Batch norm over all processes on CPU, which torch.nn.SyncBatchNorm does not support; mixed into a batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not distributed.is_initialized():
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        values = at_least_float32(x).transpose(0, 1).flatten(1)  # (C, B * positions)
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
        shape = (-1, *[1] * (x.ndim - 2))
        x = (x * scale.view(shape) + shift.view(shape)).to(x.dtype)
        for name in ("drop", "act"):  # parts of timm's batch norms
            if (part := getattr(self, name, None)) is not None:
                x = part(x)
        return x


@cache
def _synchronised(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a class of batch norms that is synchronised, with the same parameters and buffers."""
    return type(f"Synchronised{kind.__name__}", (_SynchronisedOnCpu, kind), {})


def convert_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm, for any number of axes, by one that is synchronised over processes."""
    if next(module.parameters()).device.type != "cpu":
        from timm.layers import convert_sync_batchnorm  # as torch's, and keeps the activations of timm's batch norms

        return convert_sync_batchnorm(module)
    for child in module.modules():
        if isinstance(child, _BatchNorm) and not isinstance(child, _SynchronisedOnCpu):
            child.__class__ = _synchronised(type(child))  # type: ignore[assignment, arg-type]
    return module


def step_seed(seed: int, rank: int, epoch: int, batch: int) -> int:
    """Return a seed for the random draws of one step in one process, such as stochastic depth.

    It depends on these four numbers alone, so that a resumed run continues exactly as the uninterrupted run would.
    """
    return int(np.random.SeedSequence((seed, rank, epoch, batch)).generate_state(1, np.uint64)[0] >> 1)


def shards_weights(trainer: Trainer) -> bool:
    """Return whether each process holds a part of every tensor of weights only, in a flat form."""
    return isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy))


def require_supported(trainer: Trainer, averaging: bool) -> None:
    """Refuse strategies whose training would fail later.

    Args:
        trainer: The trainer, before it trains.
        averaging: Whether a callback averages weights.

    Raises:
        InputError: Says which, and what to use instead.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher) and launcher._start_method == "spawn":
        raise InputError("--trainer.strategy ddp_spawn does not start this program's processes: use ddp.")
    if isinstance(trainer.strategy, DeepSpeedStrategy):
        raise InputError(
            "DeepSpeed saves checkpoints as folders of parts, which no command here reads: use --trainer.strategy "
            "fsdp, which divides weights, gradients and optimiser as well, or ddp."
        )
    if averaging and shards_weights(trainer):
        raise InputError(
            "--trainer.strategy fsdp divides the weights among processes, so WarmEMA cannot average them: use ddp, or "
            "leave the average out with --trainer.callbacks null."
        )

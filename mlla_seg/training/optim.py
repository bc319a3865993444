"""Optimisers by name, their parameter groups, and learning-rate schedules with linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from torch import nn
from torch.optim import Optimizer

from mlla_seg.errors import InputError, lookup

PARTS = 10_000
"""Resolution of the schedule of a training that is limited by ``max_time`` alone."""


UNFIT = ("adahessian", "bnb", "fused")
"""Starts of names of timm's optimisers that need second derivatives, or CUDA packages that are not among ours."""


def build_optimizer(name: str, groups: Sequence[dict[str, Any]], lr: float) -> Optimizer:
    """Return one of timm's optimisers, which include torch's; ``sgd`` has Nesterov's momentum of 0.9.

    Raises:
        InputError: Unknown name, or an optimiser that cannot be built here.
    """
    from timm.optim import create_optimizer_v2

    require_optimizer(name)
    try:
        return create_optimizer_v2(list(groups), name, lr=lr)
    except (ImportError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise InputError(f"--model.optimizer {name} cannot be used here: {error}".splitlines()[0]) from error


def require_optimizer(name: str) -> None:
    """Check that an optimiser is known.

    Raises:
        InputError: It is not; the message names similar ones.
    """
    from timm.optim import list_optimizers

    known = [other for other in map(str, list_optimizers()) if not other.startswith(UNFIT)]
    lookup(dict.fromkeys(sorted(known, key=lambda other: other not in ("adamw", "sgd"))), name, "--model.optimizer")


def parameter_groups(
    network: nn.Module,
    lr: float,
    weight_decay: float,
    encoder_lr_factor: float = 1.0,
    axes: Mapping[str, int] | None = None,
    heads: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups: weight decay for tensors of two or more axes, none for norms and biases.

    Args:
        network: Network with an ``encoder``, which gets groups of its own unless ``encoder_lr_factor`` is 1.
        lr: Peak learning rate.
        weight_decay: Weight decay of parameters with two or more axes.
        encoder_lr_factor: Learning rate of the encoder relative to ``lr``.
        axes: Number of axes of each parameter by name, for strategies that flatten them.
        heads: Trained with the network, but no part of it.

    Returns:
        Two or four groups; both give the same order of parameters if the encoder is the network's first submodule.
    """
    named = trained_parameters(network, heads)  # frozen ones too: they have no gradients, so they stay
    many = [(p.ndim if axes is None else axes[name]) > 1 for name, p in named]
    kinds = [
        ([p for (_, p), more in zip(named, many, strict=True) if more], weight_decay),
        ([p for (_, p), more in zip(named, many, strict=True) if not more], 0.0),
    ]
    if encoder_lr_factor == 1:
        return [{"params": some, "weight_decay": decay, "lr": lr} for some, decay in kinds]
    encoder = {id(parameter) for parameter in network.get_submodule("encoder").parameters()}
    return [
        {"params": [p for p in some if (id(p) in encoder) == inside], "weight_decay": decay, "lr": rate}
        for some, decay in kinds
        for inside, rate in ((True, lr * encoder_lr_factor), (False, lr))
    ]


def trained_parameters(network: nn.Module, heads: nn.Module | None = None) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters of a network and of what is trained with it, by name."""
    return [*network.named_parameters(), *(heads.named_parameters("heads") if heads is not None else ())]


def regrouped(groups: Sequence[dict[str, Any]], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return saved parameter groups split into groups of ``sizes``, with the parameters in the same order."""
    order = [index for group in groups for index in group["params"]]
    ends = list(accumulate(sizes))
    return [{**groups[0], "params": order[end - size : end]} for size, end in zip(sizes, ends, strict=True)]


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "poly": lambda progress: (1 - progress) ** 0.9,
    "constant": lambda progress: 1.0,
}
"""Learning-rate factor as a function of progress, from 0 (end of warm-up) to 1 (end of training)."""


def learning_rate_factor(
    step: float, total_steps: int, warmup_steps: int, schedule: str = "cosine", final: float = 0.0
) -> float:
    """Return the factor of the peak learning rate at ``step``: linear warm-up, then decay to ``final``."""
    decay = lookup(SCHEDULES, schedule, "schedule")
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final + (1 - final) * decay(progress)

"""Optimiser and learning rate: AdamW without decay on norms and biases, warm-up, then cosine or polynomial decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from mlla_seg.errors import lookup


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights of two or more axes with decay, norms and biases (one axis) without."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "poly": lambda progress: (1 - progress) ** 0.9,
    "constant": lambda progress: 1.0,
}
"""Factor of the learning rate by progress from 0 (end of warm-up) to 1 (end of training)."""


def learning_rate_factor(
    step: int, total_steps: int, warmup_steps: int, schedule: str = "cosine", final: float = 0.0
) -> float:
    """Factor of the peak learning rate at ``step``: a linear rise, then a fall to the fraction ``final``."""
    decay = lookup(SCHEDULES, schedule, "schedule")
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final + (1 - final) * decay(progress)

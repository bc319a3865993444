"""Exponential moving average of the weights with a warm-up of its decay."""

from __future__ import annotations

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class WarmEMA(WeightAveraging):
    """Moving average of the weights, used by validation, checkpoints and prediction.

    Lightning's EMA is biased towards the initial weights for about ``1 / (1 - decay)`` steps, or validates them until
    it starts. Here the decay after n steps is ``min(decay, (1 + n) / (10 + n))``.

    Args:
        decay: Final decay; 0.99 averages over about the last 100 steps.
    """

    def __init__(self, decay: float = 0.99) -> None:
        def average(old: Tensor, new: Tensor, steps: Tensor | int) -> Tensor:
            if not old.is_floating_point():
                return new
            return old.lerp(new.to(old.dtype), 1 - min(decay, (1 + float(steps)) / (10 + float(steps))))

        super().__init__(avg_fn=average)

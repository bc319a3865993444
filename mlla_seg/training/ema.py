"""An exponential moving average of the weights that is right from the first step on."""

from __future__ import annotations

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class WarmEMA(WeightAveraging):
    """Averages the weights; validation, checkpoints and prediction use the average.

    Lightning's own EMA remembers the initial weights for about ``1 / (1 - decay)`` steps, or validates them until it
    starts; this one begins with a short memory, ``min(decay, (1 + n) / (10 + n))`` after n steps.

    Args:
        decay: Memory in the long run; 0.99 averages about the last 100 steps.
    """

    def __init__(self, decay: float = 0.99) -> None:
        def average(old: Tensor, new: Tensor, steps: Tensor | int) -> Tensor:
            if not old.is_floating_point():
                return new
            return old.lerp(new.to(old.dtype), 1 - min(decay, (1 + float(steps)) / (10 + float(steps))))

        super().__init__(avg_fn=average)

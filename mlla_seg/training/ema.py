"""Exponential moving average of the weights with a warm-up of its decay."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
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

    @property
    def module(self) -> Any:
        """The LightningModule with the averaged weights; there is none before ``fit``."""
        assert self._average_model is not None
        return self._average_model.module


def ema_of(trainer: Trainer) -> WarmEMA | None:
    """Return the trainer's moving average of the weights, if it has one."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by the trainer's connector
    return next((callback for callback in callbacks if isinstance(callback, WarmEMA)), None)

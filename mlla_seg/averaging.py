"""Old name of :mod:`mlla_seg.training.ema`, which configs saved by version 0.1 use."""

from mlla_seg.training.ema import WarmEMA

__all__ = ["WarmEMA"]

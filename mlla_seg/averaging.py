"""Alias of :mod:`mlla_seg.training.ema` for configs saved by version 0.1."""

from mlla_seg.training.ema import WarmEMA

__all__ = ["WarmEMA"]

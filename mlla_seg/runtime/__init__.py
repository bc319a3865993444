"""Prediction with exported segmenters, without torch; see :mod:`mlla_seg.runtime.predictor`."""

from mlla_seg.runtime.predictor import Segmenter

__all__ = ["Segmenter"]

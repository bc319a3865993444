"""mlla_seg: semantic segmentation of medical and aerial images with MLLA encoders.

Public names are imported lazily, so that ``import mlla_seg`` is fast and needs no optional packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlla_seg._version import __version__ as __version__

_PUBLIC = {
    "MLLA": "mlla_seg.models.mlla",
    "MLLAEncoder": "mlla_seg.models.mlla",
    "MLLAUNet": "mlla_seg.models.segmenter",
    "Predictor": "mlla_seg.inference.predictor",
    "SegmentationDataModule": "mlla_seg.data.datamodule",
    "SegmentationModule": "mlla_seg.training.module",
    "Segmenter": "mlla_seg.models.segmenter",
    "create_model": "mlla_seg.models",
    "load_pretrained": "mlla_seg.models.weights",
}

__all__ = [
    "MLLA",
    "MLLAEncoder",
    "MLLAUNet",
    "Predictor",
    "SegmentationDataModule",
    "SegmentationModule",
    "Segmenter",
    "create_model",
    "load_pretrained",
]

if TYPE_CHECKING:
    from mlla_seg.data.datamodule import SegmentationDataModule
    from mlla_seg.inference.predictor import Predictor
    from mlla_seg.models import create_model
    from mlla_seg.models.mlla import MLLA, MLLAEncoder
    from mlla_seg.models.segmenter import MLLAUNet, Segmenter
    from mlla_seg.models.weights import load_pretrained
    from mlla_seg.training.module import SegmentationModule


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])

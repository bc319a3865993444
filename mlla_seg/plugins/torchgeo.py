"""MLLA in torchgeo: ``import mlla_seg.plugins.torchgeo``, then any task of torchgeo by the name of the encoder.

torchgeo looks its networks up in segmentation_models_pytorch, as in
``SemanticSegmentationTask(model="unet", backbone="mlla_tiny", ...)``, and in timm, as in
``ClassificationTask(model="mlla_tiny", ...)``: this registers both. A local file of released weights is loaded with
``mlla_seg.load_pretrained(task, "mlla_t.pth")``.
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("torchgeo") is None:
    raise ImportError("mlla_seg.plugins.torchgeo needs torchgeo: pip install 'mlla_seg[torchgeo]'")

import mlla_seg.plugins.smp
import mlla_seg.plugins.timm  # noqa: F401 - imported for what it registers

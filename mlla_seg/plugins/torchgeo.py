"""MLLA for torchgeo: ``import mlla_seg.plugins.torchgeo``, then name the encoder in any torchgeo task.

torchgeo takes its networks from segmentation_models_pytorch, as in
``SemanticSegmentationTask(model="unet", backbone="mlla_tiny", ...)``, and from timm, as in
``ClassificationTask(model="mlla_tiny", ...)``; this import registers both. torchgeo's ``weights="x.ckpt"`` takes
its own checkpoints of our encoders; load other local files with ``mlla_seg.load_pretrained(task, "mlla_t.pth")``.

``python -m mlla_seg.plugins.torchgeo fit --config task.yaml`` is torchgeo's command line with our encoders.
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("torchgeo") is None:
    raise ImportError("mlla_seg.plugins.torchgeo needs torchgeo: pip install 'mlla_seg[torchgeo]'")

import mlla_seg.plugins.smp
import mlla_seg.plugins.timm  # noqa: F401 - imported for its registrations

if __name__ == "__main__":
    from torchgeo.main import main

    main()

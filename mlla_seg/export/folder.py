"""Export as a folder with safetensors, as on the Hugging Face Hub, for ``Segmenter.from_pretrained`` and predict."""

from __future__ import annotations

from pathlib import Path

import torch

from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError
from mlla_seg.export.exportable import Job
from mlla_seg.export.parity import Engine
from mlla_seg.models.segmenter import Segmenter


def write_safetensors(job: Job, path: Path) -> Engine:
    """Write config.json, model.safetensors and a model card.

    Raises:
        InputError: The network is an ensemble or includes test-time augmentation.
    """
    if not isinstance(job.network, Segmenter):
        raise InputError("A safetensors folder holds one network: export each checkpoint separately, without --tta.")
    job.network.save_pretrained(path)
    network = Segmenter.from_pretrained(path)

    def run(image: Array) -> Array:
        with torch.inference_mode():
            return network(torch.from_numpy(image)).numpy()

    return Engine("Segmenter.from_pretrained", run)

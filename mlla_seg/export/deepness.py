"""ONNX for Deepness, the plugin of QGIS: square tiles of one size, and what its dialog asks for in the metadata.

Deepness divides the pixels of a layer by 255, takes ``standardization_mean`` from them and divides by
``standardization_std``, and expects probabilities ``(1, K, S, S)``. Here those two do nothing, as normalisation is in
the graph, which begins with undoing the division.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor, nn

from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError
from mlla_seg.export.exportable import Exportable, Job, example_image
from mlla_seg.export.onnx import checked, onnx_program, save
from mlla_seg.export.parity import Engine

TILE = 512
"""Side of the tiles where neither the user nor the training says one."""
OVERLAP = 20
"""Percent by which tiles overlap; Deepness cuts half of it off each."""
BYTE = 255.0


class _OfBytes(nn.Module):
    """The network for pixels that were divided by 255."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image * BYTE)


def write_deepness(job: Job, path: Path) -> Engine:
    """Writes an ONNX of one size with the metadata that Deepness reads.

    Raises:
        InputError: The network sees neighbouring slices, or images at another size than theirs.
    """
    spec = job.spec
    if spec.context or spec.resize is not None:
        what = "neighbouring slices" if spec.context else "images that were resized"
        raise InputError(f"Deepness shows a network tiles as they are; this one was trained on {what}.")
    if spec.view.per_case:
        raise InputError("Deepness shows a network single images; this one was trained on standardised volumes.")
    trained_on = max(spec.patch_size or (TILE,))
    tile = job.tile or trained_on
    channels = job.channels
    about = {
        "model_type": "Segmentor",
        "class_names": dict(enumerate(spec.class_names)),
        "tile_size": tile,
        "tiles_size": tile,
        "tiles_overlap": OVERLAP,
        "standardization_mean": [0.0] * channels,
        "standardization_std": [1.0] * channels,
        "seg_thresh": 0.0,
        "seg_small_segment": 1,
        "class_colours": [list(entry.colour) for entry in spec.classes],
        "channels": list(spec.channels),
    }
    if job.pixel_size_m:
        about["resolution"] = 100 * job.pixel_size_m  # cm
    program = onnx_program(job, _OfBytes(Exportable(job.network, "probabilities", job.precision)), tile)
    save(program, path, {key: json.dumps(value) for key, value in about.items()})
    engine = checked(path)

    def run(image: Array) -> Array:
        return engine.run(image / BYTE)

    return Engine(engine.name, run, [example_image(spec, (1, channels, tile, tile), seed) for seed in (0, 1)])

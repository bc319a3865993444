"""Export as ONNX for the QGIS plugin Deepness: one fixed input size, with the settings of its dialog as metadata.

Deepness divides the pixels of a layer by 255, subtracts ``standardization_mean``, divides by ``standardization_std``
and expects probabilities ``(1, K, S, S)``. Mean and std are set to 0 and 1 here: the graph undoes the division by 255
and includes the normalisation of the training.
"""

import json
from pathlib import Path

from torch import Tensor, nn

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError
from mlla_seg.export.exportable import Exportable, Job, example_image
from mlla_seg.export.onnx import checked, onnx_program, save
from mlla_seg.export.parity import Engine
from mlla_seg.progress import note

TILE = 512
"""Side of the windows if neither the option nor the training sets it."""
OVERLAP = 20
"""Overlap of windows in percent; Deepness crops half of it from each."""
BYTE = 255.0
BRIGHTEST = 308.0
"""Largest sum of mean and standard deviation that values from 0 to 255 can have."""


class _OfBytes(nn.Module):
    """Network for pixels that were divided by 255."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image * BYTE)


def typical_range(spec: DataSpec) -> tuple[float, float]:
    """Return the range of the training images as far as their normalisation tells: the window, or mean and std."""
    how = spec.normalisation
    clipped = [window for window in how.windows if window]
    if clipped:
        return min(low for low, _ in clipped), max(high for _, high in clipped)
    if how.per_image:  # any range will do
        return 0.0, BYTE
    means, stds = (value if isinstance(value, tuple) else (value,) for value in (how.mean, how.std))
    return min(means), max(means) + max(stds)


def write_deepness(job: Job, path: Path) -> Engine:
    """Write an ONNX file of fixed input size with Deepness metadata.

    Raises:
        InputError: The network was trained on neighbouring slices, resized images, standardised volumes or regions.
    """
    spec = job.spec
    if spec.context or spec.resize is not None:
        what = "neighbouring slices" if spec.context else "resized images"
        raise InputError(f"Deepness passes single images at their own size, but this network was trained on {what}.")
    if spec.regions:
        raise InputError("Deepness gives each pixel its most probable class, but the regions of this network overlap.")
    if spec.view.per_case:
        raise InputError("Deepness passes single images, but this network was trained on standardised volumes.")
    low, high = typical_range(spec)
    if low < 0 or not 1 <= high <= BRIGHTEST:
        note(
            "note: Deepness shows bytes (0 to 255), but the normalisation of this network is for values from "
            f"{low:g} to {high:g}: its masks will be wrong. predict --polygons gpkg reads such files as they are."
        )
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

"""Static int8 quantisation of ONNX files by onnxruntime, calibrated on the user's images."""

import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from mlla_seg.data.formats.picture import require_finite
from mlla_seg.data.formats.registry import read_channels
from mlla_seg.data.image_files import find_images
from mlla_seg.export.exportable import Job
from mlla_seg.inference.predictor import Predictor
from mlla_seg.inference.scenes import MapOptions, predict_scene
from mlla_seg.inference.targets import is_scene
from mlla_seg.progress import note, quiet

IMAGES = 32
"""Number of slices or windows for calibration, sampled from all inputs of the network."""
LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def quantise(job: Job, original: Path, path: Path) -> list[Tensor]:
    """Write an int8 ONNX file; convolutions and linear layers are quantised.

    Args:
        job: Options of the export, with ``calibration``.
        original: ONNX file in float32.
        path: ONNX file in int8 to write.

    Returns:
        The calibration images ``(1, C, H, W)``.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    images = calibration_images(job)
    note(f"Calibrating int8 on {len(images)} slices or windows of {job.calibration}.")

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"image": image.numpy()}

    with quiet():
        quantize_static(
            original,
            path,
            Images(),
            op_types_to_quantize=list(LAYERS),
            nodes_to_exclude=_without_weights(original),
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
    return images


def calibration_images(job: Job) -> list[Tensor]:
    """Return up to ``IMAGES`` inputs of the network, sampled while predicting the images of ``job.calibration``.

    Raises:
        InputError: There are no images, or they do not match the training data.
    """
    predictor = Predictor(_Sample(len(job.spec.output_names)), job.spec)
    for files in find_images(Path(str(job.calibration)), len(job.spec.channels)):
        if is_scene(files):
            with TemporaryDirectory() as folder:
                predict_scene(predictor.engine, job.spec, files, Path(folder) / "map.tif", MapOptions(overlap=0))
            continue
        picture = read_channels(files, job.spec.plane, job.spec.array_units, job.spec.wanted)
        require_finite(files[0], picture)
        for _ in predictor.logits(picture.array, spacing_mm=picture.spacing_mm):
            pass
    assert isinstance(predictor.fast, _Sample)
    return predictor.fast.kept


class _Sample(nn.Module):
    """Stand-in for the network that keeps a random sample of its inputs (reservoir sampling)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.kept: list[Tensor] = []
        self.seen = 0
        self.random = random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        for image in x.split(1):
            self.seen += 1
            if len(self.kept) < IMAGES:
                self.kept.append(image.clone())
            elif (place := self.random.randrange(self.seen)) < IMAGES:
                self.kept[place] = image.clone()
        return torch.zeros(len(x), self.outputs, *x.shape[2:], device=x.device)


def _without_weights(path: Path) -> list[str]:
    """Return the names of products of two activations, such as those of attention, which stay in float32."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {entry.name for entry in graph.initializer}

    def names() -> Iterator[str]:
        for node in graph.node:
            if node.op_type in LAYERS and not weights & set(node.input[1:2]):
                yield node.name

    return list(names())

"""Export as OpenVINO IR, ``model.xml`` and ``model.bin``, for Intel hardware."""

from __future__ import annotations

from pathlib import Path

import torch

from mlla_seg.atomic import unfinished_folder
from mlla_seg.checksums import seal
from mlla_seg.data.formats.picture import Array
from mlla_seg.export.exportable import Exportable, Job
from mlla_seg.export.onnx import onnx_program, save
from mlla_seg.export.parity import Engine

RT_INFO = "mlla_seg"
"""Key of the metadata in the file: ``model.get_rt_info(["mlla_seg", "classes"])``."""


def write_openvino(job: Job, path: Path) -> Engine:
    """Write a model for images of any size; float16 applies to weights, the device chooses how it computes."""
    import openvino

    with unfinished_folder(path) as folder:
        original = folder / "model.onnx"
        save(onnx_program(job, Exportable(job.network, job.outputs, writes=job.spec.writes)), original, {})
        model = openvino.convert_model(original)
        for key, value in job.facts.items():
            model.set_rt_info(value, [RT_INFO, key])
        openvino.save_model(model, path, compress_to_fp16=job.precision == "float16")
        seal(path, path.with_suffix(".bin"))
    # By default OpenVINO computes in bfloat16 on CPUs that support it.
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", exact)

    def run(image: Array) -> Array:
        return compiled(image)[0]

    return Engine(f"OpenVINO {openvino.__version__.split('-')[0]}", run)

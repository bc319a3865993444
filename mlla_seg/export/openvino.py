"""OpenVINO's format: ``model.xml`` and ``model.bin``, for Intel's processors."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mlla_seg.data.formats.picture import Array
from mlla_seg.export.exportable import Exportable, Job
from mlla_seg.export.onnx import onnx_program, save
from mlla_seg.export.parity import Engine

RT_INFO = "mlla_seg"
"""Where the file says what the network knows of its data: ``model.get_rt_info(["mlla_seg", "classes"])``."""


def write_openvino(job: Job, path: Path) -> Engine:
    """Writes a model of any size; in float16 its weights are, and the device decides how it computes."""
    import openvino

    with TemporaryDirectory() as folder:
        original = Path(folder) / "model.onnx"
        save(onnx_program(job, Exportable(job.network, job.outputs)), original, {})
        model = openvino.convert_model(original)
        for key, value in job.facts.items():
            model.set_rt_info(value, [RT_INFO, key])
        openvino.save_model(model, path, compress_to_fp16=job.precision == "float16")
    # Processors with bfloat16 would use it, as they do for users who do not say this.
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", exact)

    def run(image: Array) -> Array:
        return compiled(image)[0]

    return Engine(f"OpenVINO {openvino.__version__.split('-')[0]}", run)

"""Export as ONNX with dynamic batch size and size of images; padding and cropping are part of the graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mlla_seg.atomic import unfinished_folder
from mlla_seg.checksums import seal
from mlla_seg.data.formats.picture import Array
from mlla_seg.export.exportable import Exportable, Job
from mlla_seg.export.parity import Engine
from mlla_seg.export.programs import exported_program
from mlla_seg.progress import quiet

IN_FILE = 2**31 - 2**24
"""Largest size of weights in bytes that are stored in the file itself; larger ones go to a separate file."""

LOWEST_OPSET = 18
HIGHEST_OPSET = 25
"""Range to which torch's exporter and onnxscript convert."""


def highest_opset() -> int:
    """Return the highest opset that can be written and that the installed onnx knows."""
    from onnx.defs import onnx_opset_version

    return min(HIGHEST_OPSET, onnx_opset_version())


def write_onnx(job: Job, path: Path) -> Engine:
    """Write an ONNX file for images of any size, quantised if int8 is requested."""
    precision = "float32" if job.precision == "int8" else job.precision
    program = onnx_program(job, Exportable(job.network, job.outputs, precision, job.spec.writes))
    if job.precision == "int8":
        return _int8(job, program, path)
    save(program, path, job.facts)
    return checked(path)


def _int8(job: Job, program: Any, path: Path) -> Engine:
    """Write a quantised graph, to be compared on the first calibration images."""
    from mlla_seg.export.quantisation import quantise

    with unfinished_folder(path) as folder:
        original = folder / "float32.onnx"
        _save_open(program, original, job.facts)
        images = quantise(job, original, path)
    seal(path)
    return replace(checked(path), images=images[:4])


def onnx_program(job: Job, module: torch.nn.Module, size: int | None = None) -> Any:
    """Return the ONNX program of a module, with the input ``image`` and an output named after ``job.outputs``.

    Args:
        job: Options of the export.
        module: Maps ``(B, C, H, W)``, or volumes ``(B, C, D, H, W)``.
        size: Fixed height and width, for batch size 1; by default all are dynamic.
    """
    names = ("height", "width") if job.spec.axes == 2 else ("slices", "height", "width")
    axes = {} if size else {0: "batch", **dict(enumerate(names, 2))}
    with quiet():
        return torch.onnx.export(
            exported_program(job, module, size),
            dynamo=True,
            opset_version=job.opset,
            input_names=["image"],
            output_names=[job.outputs],
            dynamic_shapes={"image": axes},
            verbose=False,
        )


def save(program: Any, path: Path, facts: dict[str, str]) -> None:
    """Write a graph and its seal; weights beyond ``IN_FILE`` bytes go to a second file with the suffix ``.data``."""
    seal(path, *_save_open(program, path, facts))


def _save_open(program: Any, path: Path, facts: dict[str, str]) -> list[Path]:
    """Write a graph without a seal, and return the files beside it."""
    program.model.metadata_props.update(facts)
    for node in program.model.graph.all_nodes():  # source lines with paths of this machine
        node.metadata_props.clear()
    bytes_of_weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    apart = bytes_of_weights > IN_FILE
    program.save(path, external_data=apart)
    return [path.with_name(f"{path.name}.data")] if apart else []


def checked(path: Path) -> Engine:
    """Check a file with ``onnx.checker`` and full shape inference, and load it in onnxruntime."""
    import onnx

    onnx.checker.check_model(path, full_check=True)
    return onnxruntime_engine(path)


def onnxruntime_engine(path: Path) -> Engine:
    """Return an engine that runs an ONNX file in onnxruntime on CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: Array) -> Array:
        return session.run(None, {name: image})[0]

    return Engine(f"onnxruntime {onnxruntime.__version__}", run)

"""Graphs that torch itself runs, without this package: ``torch.export``, AOTInductor and TorchScript."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError
from mlla_seg.export.exportable import Exportable, Job, example_image
from mlla_seg.export.parity import Engine
from mlla_seg.inference.optimize_compile import require_compiler
from mlla_seg.models.segmenter import STRIDE
from mlla_seg.progress import quiet

FACTS = "mlla_seg.json"
"""Name of the file inside ``.pt2`` and TorchScript archives that says what the network knows of its data."""


def exported_program(
    job: Job, module: torch.nn.Module, size: int | None = None, multiple: int = 1
) -> torch.export.ExportedProgram:
    """The graph of a module, recorded for images of any batch, height and width.

    Args:
        job: What is exported.
        module: Maps ``(B, C, H, W)``.
        size: Batch 1 and this height and width alone.
        multiple: Of which heights and widths have to be multiples.
    """
    dim = torch.export.Dim
    if size:
        shape, sizes = (1, size, size), None
    elif multiple > 1:
        shape = (2, 3 * multiple, 4 * multiple)
        sizes = {0: dim("batch"), 2: multiple * dim("rows", min=1), 3: multiple * dim("columns", min=1)}
    else:
        shape, sizes = (2, 70, 90), dict.fromkeys((0, 2, 3), dim.DYNAMIC)
    image = example_image(job.spec, (shape[0], job.channels, *shape[1:]))
    with quiet():
        program = torch.export.export(module, (image,), dynamic_shapes={"image": sizes})
    for node in program.graph.nodes:  # lines of Python with the paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def write_torch_export(job: Job, path: Path) -> Engine:
    """Writes a ``.pt2`` that ``torch.export.load`` reads."""
    program = exported_program(job, Exportable(job.network, job.outputs, job.precision))
    torch.export.save(program, path, extra_files={FACTS: json.dumps(job.facts)})
    with quiet():
        return _engine("torch.export", torch.export.load(path).module())


def write_aoti(job: Job, path: Path) -> Engine:
    """Writes a ``.pt2`` of compiled code for this kind of processor, for C++ servers and ``aoti_load_package``.

    Heights and widths are multiples of 32: compiled for any size, it ran no faster than torch itself. Other images are
    padded by their caller, who repeats their border.

    Raises:
        InputError: There is no compiler.
    """
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    require_compiler("--format aoti")
    program = exported_program(job, Exportable(job.network, job.outputs, job.precision), multiple=STRIDE)
    with quiet():
        aoti_compile_and_package(program, package_path=str(path), inductor_configs={"aot_inductor.metadata": job.facts})
    engine = _engine("AOTInductor", aoti_load_package(str(path)))
    sizes = ((64, 64), (224, 224), (224, 352), (480, 256))
    images = [example_image(job.spec, (1, job.channels, *size), k) for k, size in enumerate(sizes)]
    return replace(engine, images=images)


def write_torchscript(job: Job, path: Path) -> Engine:
    """Writes a TorchScript archive that ``torch.jit.load`` and libtorch read."""
    module = scripted(Exportable(job.network, job.outputs, job.precision))
    torch.jit.save(module, path, _extra_files={FACTS: json.dumps(job.facts)})
    with quiet():
        return _engine("TorchScript", torch.jit.load(path))


def scripted(module: torch.nn.Module) -> Any:
    """A module as TorchScript.

    Raises:
        InputError: Some part of it, such as a decoder, is written in a way that TorchScript does not know.
    """
    with quiet():
        try:
            return torch.jit.script(module.eval())
        except RuntimeError as error:
            reason = next(line for line in str(error).splitlines() if line.strip())
            raise InputError(
                f"TorchScript cannot take this network ({reason}). Export it with --format torch_export or onnx."
            ) from error


def _engine(name: str, module: Any) -> Engine:
    def run(image: Array) -> Array:
        with torch.inference_mode():
            return module(torch.from_numpy(image)).numpy()

    return Engine(f"{name} {torch.__version__}", run)

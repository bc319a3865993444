"""Export as graphs that torch runs without this package: ``torch.export``, AOTInductor and TorchScript."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mlla_seg.atomic import replace_content
from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError
from mlla_seg.export.exportable import Exportable, Job, example_image
from mlla_seg.export.parity import Engine
from mlla_seg.inference.optimize_compile import require_compiler
from mlla_seg.models.mixers import scanning
from mlla_seg.models.segmenter import STRIDE
from mlla_seg.progress import note, quiet

FACTS = "mlla_seg.json"
"""Name of the metadata file inside ``.pt2`` and TorchScript archives."""
VERSIONS = (".data/version", "version")
"""Records, one of which holds the version of the operators in an archive of torch."""


def exported_program(
    job: Job, module: torch.nn.Module, size: int | None = None, multiple: int = 1
) -> torch.export.ExportedProgram:
    """Trace a module with ``torch.export``, with dynamic batch size and size of images, or of volumes.

    Args:
        job: Options of the export.
        module: Maps ``(B, C, H, W)``, or volumes ``(B, C, D, H, W)``.
        size: Fixed height and width, for batch size 1.
        multiple: Number of which heights and widths must be multiples.

    Raises:
        InputError: A mixer of the network visits pixels in turn.
    """
    if found := scanning(module):
        raise InputError(
            f"Token mixer {found[0]} visits pixels in turn, which a graph cannot express for every image size: "
            "export --format torchscript or safetensors."
        )
    dim = torch.export.Dim
    shape: tuple[int, ...]
    if size:
        shape, sizes = (1, size, size), None
    elif multiple > 1:
        shape = (2, 3 * multiple, 4 * multiple)
        sizes = {0: dim("batch"), 2: multiple * dim("rows", min=1), 3: multiple * dim("columns", min=1)}
    else:
        shape = (2, 70, 90) if job.spec.axes == 2 else (2, 36, 40, 44)
        sizes = dict.fromkeys((0, *range(2, 2 + job.spec.axes)), dim.DYNAMIC)
    image = example_image(job.spec, (shape[0], job.channels, *shape[1:]))
    with quiet():
        program = torch.export.export(module, (image,), dynamic_shapes={"image": sizes})
    for node in program.graph.nodes:  # source lines with paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def write_torch_export(job: Job, path: Path) -> Engine:
    """Write a ``.pt2`` file for ``torch.export.load``."""
    program = exported_program(job, Exportable(job.network, job.outputs, job.precision, job.spec.writes))
    write_whole(path, lambda file: torch.export.save(program, file, extra_files={FACTS: json.dumps(job.facts)}))
    least = smallest_side(program)
    if least > 1:
        note(f"note: this .pt2 file takes heights and widths from {least} pixels on; onnx and torchscript take any.")
    with quiet():
        return replace(_engine("torch.export", torch.export.load(path).module()), least=least)


def smallest_side(program: torch.export.ExportedProgram) -> int:
    """Return the smallest height and width in pixels that a graph takes.

    torch traces a coarsest feature map of one pixel as a special case, so the limit is 33 unless the network centres
    small images in a larger frame.
    """
    lowest = max((int(sizes.lower) for sizes in program.range_constraints.values()), default=1)
    return lowest if lowest > 2 else 1  # torch counts from 2 where any size will do


def write_aoti(job: Job, path: Path) -> Engine:
    """Write a ``.pt2`` package of code compiled for this type of CPU, for C++ servers and ``aoti_load_package``.

    Heights and widths must be multiples of 32 from 64 on, because code compiled for any size ran no faster than eager
    torch. The caller pads other images by repeating their border.

    Raises:
        InputError: No C++ compiler was found.
    """
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    require_compiler("--format aoti")
    program = exported_program(
        job, Exportable(job.network, job.outputs, job.precision, job.spec.writes), multiple=STRIDE
    )
    with quiet():
        how = {"aot_inductor.metadata": job.facts}
        write_whole(path, lambda file: aoti_compile_and_package(program, package_path=file, inductor_configs=how))
    engine = _engine("AOTInductor", aoti_load_package(str(path)))
    sizes = ((64, 64), (224, 224), (224, 352), (480, 256))
    images = [example_image(job.spec, (1, job.channels, *size), k) for k, size in enumerate(sizes)]
    return replace(engine, images=images)


def write_torchscript(job: Job, path: Path) -> Engine:
    """Write a TorchScript archive for ``torch.jit.load`` and libtorch."""
    module = scripted(Exportable(job.network, job.outputs, job.precision, job.spec.writes))
    write_whole(path, lambda file: save_scripted(module, file, {FACTS: json.dumps(job.facts)}))
    with quiet():
        return _engine("TorchScript", torch.jit.load(path))


def write_whole(path: Path, save: Callable[[io.BytesIO], Any]) -> None:
    """Write a file that torch saves to memory first, as its own writer aborts the process on a full disk."""
    content = io.BytesIO()
    save(content)
    replace_content(path, content.getbuffer())


def save_scripted(module: Any, file: io.BytesIO, extra: dict[str, str] | None = None) -> None:
    """Save a TorchScript archive without the records for debuggers, which hold the paths of source files."""
    whole = io.BytesIO()
    torch.jit.save(module, whole, _extra_files=extra or {})
    whole.seek(0)
    reader, writer = torch._C.PyTorchFileReader(whole), torch._C.PyTorchFileWriter(file)
    records = reader.get_all_records()
    writer.set_min_version(max(int(reader.get_record(name)) for name in records if name in VERSIONS))
    for name in records:
        if not name.endswith(".debug_pkl") and name not in (*VERSIONS, ".data/serialization_id"):
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()


def scripted(module: torch.nn.Module) -> Any:
    """Compile a module to TorchScript.

    Raises:
        InputError: TorchScript does not support some part of it, such as a decoder.
    """
    with quiet():
        try:
            return torch.jit.script(module.eval())
        except RuntimeError as error:
            reason = next(line for line in str(error).splitlines() if line.strip())
            raise InputError(
                f"TorchScript does not support this network ({reason}). Export it with --format torch_export or onnx."
            ) from error


def _engine(name: str, module: Any) -> Engine:
    def run(image: Array) -> Array:
        with torch.inference_mode():
            return module(torch.from_numpy(image)).numpy()

    return Engine(f"{name} {torch.__version__}", run)

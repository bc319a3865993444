"""Export of trained segmenters to formats that other programs run, verified against the checkpoint.

A format is a function ``write(job, path) -> Engine`` that writes the file (or folder) and returns an engine that runs
it. To add a format, write such a function and add a line to ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, TypeAlias

from mlla_seg.atomic import replace, unfinished_folder
from mlla_seg.data.postprocessing import in_words
from mlla_seg.errors import InputError, lookup
from mlla_seg.export.bundle import write_bundle
from mlla_seg.export.deepness import write_deepness
from mlla_seg.export.exportable import Job
from mlla_seg.export.folder import write_safetensors
from mlla_seg.export.onnx import LOWEST_OPSET, highest_opset, write_onnx
from mlla_seg.export.openvino import write_openvino
from mlla_seg.export.parity import Engine, compare, files_compared, parity_path
from mlla_seg.export.programs import write_aoti, write_torch_export, write_torchscript
from mlla_seg.models.checkpoint import is_averaged, load_network
from mlla_seg.progress import note, say
from mlla_seg.runtime.engines import OUTPUTS, beside


@dataclass(frozen=True)
class Format:
    """An export format."""

    write: Callable[[Job, Path], Engine]
    suffix: str
    """File suffix; empty for folders."""
    outputs: tuple[str, ...] = OUTPUTS
    """Supported outputs; the first is the default."""
    precisions: tuple[str, ...] = ("float32", "float16")
    options: tuple[str, ...] = ()
    """Format-specific options of the command."""
    volumes: bool = True
    """Whether it takes networks of volumes, besides those of slices and images."""
    packages: tuple[str, ...] = ()
    """Required packages of the extra ``export``."""


FORMATS = {
    "onnx": Format(
        write_onnx,
        ".onnx",
        precisions=("float32", "float16", "int8"),
        options=("opset", "calibration"),
        packages=("onnx", "onnxscript", "onnxruntime"),
    ),
    "torch_export": Format(write_torch_export, ".pt2"),
    "aoti": Format(write_aoti, ".pt2", volumes=False),
    "torchscript": Format(write_torchscript, ".ts"),
    "openvino": Format(write_openvino, ".xml", packages=("onnx", "onnxscript", "openvino")),
    "safetensors": Format(write_safetensors, "", outputs=("logits",), precisions=("float32",)),
    "monai_bundle": Format(write_bundle, "", outputs=("labels",), precisions=("float32",), packages=("monai",)),
    "deepness": Format(
        write_deepness,
        ".onnx",
        outputs=("probabilities",),
        options=("opset", "tile", "pixel_size_m"),
        volumes=False,
        packages=("onnx", "onnxscript", "onnxruntime"),
    ),
}
"""Export formats by name."""


# Literals built from the registries, so that --help lists the choices.
FormatName: TypeAlias = Literal[tuple(FORMATS)]  # type: ignore[valid-type]
OutputName: TypeAlias = Literal[OUTPUTS]  # type: ignore[valid-type]
Precision: TypeAlias = Literal["float32", "float16", "int8"]


def export(
    ckpt_path: list[str] | str,
    output: str,
    format: FormatName = "onnx",
    outputs: OutputName | None = None,
    precision: Precision = "float32",
    opset: int | None = None,
    calibration: str | None = None,
    tile: int | None = None,
    pixel_size_m: float | None = None,
    tta: bool = False,
) -> None:
    """Export a trained segmenter, and compare the exported file with its checkpoint.

    Nothing is written if they differ by more than rounding. The comparison is printed and saved beside the file as
    OUTPUT.parity.json. The file takes images in raw units and of any size: it includes normalisation, padding and
    cropping.

    Args:
        ckpt_path: Checkpoint written by fit, or folder written by save_pretrained; several are exported as an ensemble
            in one file: `--ckpt_path a.ckpt b.ckpt`.
        output: File to write; for safetensors and monai_bundle a new folder.
        format: onnx, torch_export (.pt2), aoti (compiled .pt2), torchscript (.ts), openvino (.xml), safetensors,
            monai_bundle, or deepness (ONNX for QGIS).
        outputs: Output of the file: logits, probabilities or labels.
        precision: float32, float16, or int8 (onnx only, with --calibration).
        opset: ONNX opset version, 18 to 25; a newer one needs newer runtimes.
        calibration: Image, folder or list of images, as for predict, to calibrate int8 quantisation.
        tile: Side of the square windows of deepness in pixels; by default that of the training patches.
        pixel_size_m: Ground sample distance of the training images in metres, for deepness.
        tta: Include test-time augmentation: the file averages over flips along the axes that training mirrored.
    """
    how = lookup(FORMATS, format, "format")
    given = {"opset": opset, "calibration": calibration, "tile": tile, "pixel_size_m": pixel_size_m}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    outputs = outputs or how.outputs[0]
    target = Path(output)
    if not how.suffix and target.is_symlink():
        target = target.resolve()
    _require_options(how, format, outputs, precision, options)
    _require_target(how, format, target)
    paths = [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path
    network, spec = load_network(paths, tta)
    if spec.axes == 3:
        _require_volumes(how, format, precision)
    job = Job(network, spec, outputs, precision, **options)
    if spec.view.per_case and format != "monai_bundle":
        note(
            "note: the file does not standardise whole cases: your program must do so, over the whole volume, before "
            f"it calls the file: {spec.normalisation.in_words(spec.channels)}. python -m mlla_seg.runtime does it."
        )
    if spec.postprocessing and format != "monai_bundle":
        note(
            "note: the file holds the network without the post-processing, which python -m mlla_seg.runtime applies "
            f"and other programs must do themselves: {in_words(spec.postprocessing, spec.class_names)}."
        )
    _require_writable(target)
    with unfinished_folder(target) as unfinished:
        note(f"Exporting {' '.join(paths)}, which may take a minute or two.")
        written = unfinished / target.name
        engine = how.write(job, written)
        report = compare(job, engine, written, paths, averaged=all(map(is_averaged, paths)))
        say(report.table())
        if report.problem:
            raise InputError(f"{output}: not written, because it differs from the checkpoint: {report.problem}.")
        report.save(parity_path(written))
        replace({path: target.with_name(path.name) for path in unfinished.iterdir()})
    say(f"Written: {target}, with the comparison in {parity_path(target).name} beside it.")


def _require_options(how: Format, name: str, outputs: str, precision: str, options: dict[str, Any]) -> None:
    """Check packages and options before any work starts.

    Raises:
        InputError: A package is missing, or the format does not support an option or its value.
    """
    for package in how.packages:
        if find_spec(package) is None:
            raise InputError(f"--format {name} needs {package}: pip install 'mlla_seg[export]'")
    for option, value, known in (("outputs", outputs, how.outputs), ("precision", precision, how.precisions)):
        if value not in known:
            raise InputError(f"--{option} {value}: --format {name} supports {', '.join(known)}.")
    for option in options:
        if option not in how.options:
            owners = ", ".join(other for other, entry in FORMATS.items() if option in entry.options)
            raise InputError(f"--{option} is an option of --format {owners}, not of {name}.")
    if ("calibration" in options) != (precision == "int8"):
        raise InputError("--precision int8 and --calibration IMAGES go together: int8 is calibrated on images.")
    if "opset" in options and not LOWEST_OPSET <= options["opset"] <= highest_opset():
        raise InputError(f"--opset must be {LOWEST_OPSET} to {highest_opset()}, got {options['opset']}.")
    if options.get("tile", 1) < 1:
        raise InputError(f"--tile must be 1 pixel or more, got {options['tile']}.")
    if options.get("pixel_size_m", 1) <= 0:
        raise InputError(f"--pixel_size_m must be above zero, got {options['pixel_size_m']}.")


def _require_target(how: Format, name: str, target: Path) -> None:
    """Check before any work starts that the target has the format's suffix and that nothing foreign is replaced.

    Raises:
        InputError: The target cannot be used.
    """
    if how.suffix and target.suffix != how.suffix:
        raise InputError(f"--output {target}: the name of a file of --format {name} must end with {how.suffix}.")
    if how.suffix and target.is_dir():
        raise InputError(f"--output {target}: is a folder; --format {name} writes a file.")
    if foreign := [path.name for path in beside(target) if path.name not in files_compared(target)]:
        raise InputError(
            f"--output {target}: {foreign[0]} beside it would be replaced, but is not part of an earlier export. "
            "Choose another name, or remove that file."
        )
    if not how.suffix and target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"--output {target}: already exists; --format {name} creates a new folder.")


def _require_volumes(how: Format, name: str, precision: str) -> None:
    """Raise if a format or precision is for networks of slices and images only.

    Raises:
        InputError: Names the formats for networks of volumes.
    """
    known = ", ".join(other for other, entry in FORMATS.items() if entry.volumes)
    for option, refused, instead in (
        (f"--format {name}", not how.volumes, f"--format {known}"),
        (f"--precision {precision}", precision == "int8", "--precision float32 or float16"),
    ):
        if refused:
            raise InputError(
                f"{option} is for networks of slices or images, but this one was trained on patches of volumes. Use "
                f"{instead}."
            )


def _require_writable(target: Path) -> None:
    """Raise before any work starts if nothing can be written beside the target.

    Raises:
        InputError: Names the folder, and why.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise InputError(
            f"--output {target}: cannot write to {target.parent} ({error.strerror}). Choose another folder."
        ) from error

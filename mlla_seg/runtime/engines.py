"""Engines for exported networks, without torch: onnxruntime for ``.onnx``, OpenVINO for ``.xml``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.checksums import require_sealed
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.rules import Rule, one_of, require
from mlla_seg.data.spec_rules import SPEC
from mlla_seg.errors import InputError, followed_by, lookup, program
from mlla_seg.inference.memory import is_out_of_memory

Run = Callable[[Array], Array]
"""Maps images ``(B, C, H, W)`` or volumes ``(B, C, D, H, W)`` float32 in raw units to the output of the file."""

Shape = tuple[int | None, int | None]
"""Channels of the input and of the output; None where the file does not fix them."""

PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider"]}
"""onnxruntime providers by device."""
HINTS = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO precision hints by precision."""
OUTPUTS = ("logits", "probabilities", "labels")
"""Outputs of an exported network: logits or probabilities ``(B, K, *spatial)`` float32, or labels ``(B, *spatial)``
uint8, the indices of classes, also of a network of K regions."""
FACTS = {"outputs": Rule(one_of(OUTPUTS), f"one of {', '.join(OUTPUTS)}")}
"""Rules of the metadata besides the spec."""


def open_engine(path: Path, device: str = "cpu", threads: int = 0, precision: str = "fp32") -> tuple[Run, DataSpec]:
    """Load an exported network.

    Args:
        path: An ``.onnx``, or OpenVINO's ``.xml`` with its ``.bin`` beside it.
        device: ``cpu`` or, with onnxruntime-gpu, ``cuda``.
        threads: Threads of the engine; one per core by default.
        precision: ``fp32``, or with OpenVINO ``bf16``, which is faster on CPUs that support it.

    Returns:
        A function from images to logits, and the spec stored in the file.

    Raises:
        InputError: No such file, not exported by this program, an export of labels, or a missing package.
    """
    lookup(PROVIDERS, device, "device")
    lookup(HINTS, precision, "precision")
    if not path.is_file():
        known = "openvino" if path.suffix == ".xml" else "onnx"
        raise InputError(f"{path}: no such file. {program()} export --format {known} writes one.")
    require_sealed(path)
    if path.suffix == ".xml":
        if device != "cpu":
            raise InputError(f"{path}: OpenVINO is supported only on cpu; for cuda, export an ONNX.")
        run, content, shape = _openvino(path, threads, precision)
    else:
        if precision != "fp32":
            raise InputError(f"{path}: ONNX precision is fixed at export; for bf16, export with --format openvino.")
        run, content, shape = _onnxruntime(path, device, threads)
    if "mlla_seg_version" not in content:
        raise InputError(f"{path}: was not written by {program()} export: its classes are missing.")
    facts = {}
    for key, value in content.items():
        with suppress(ValueError, TypeError, RecursionError):  # metadata added by other programs
            facts[key] = json.loads(value)
    with followed_by("The file is damaged or was changed: export it again."):
        spec = DataSpec.from_dict({key: value for key, value in facts.items() if key in SPEC}, str(path))
        require({"outputs": facts.get("outputs")}, FACTS, str(path))
        spec.require_network(shape if facts["outputs"] != "labels" else (shape[0], None), path)
    run = _checked(run, len(spec.output_names), path)
    return _logits_of(run, facts["outputs"], bool(spec.regions), path), spec


def beside(path: Path) -> list[Path]:
    """Return the files with the weights of an exported network, where they are not in the file itself."""
    found = (path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data"),)
    return [file for file in found if file.is_file()]


def _onnxruntime(path: Path, device: str, threads: int) -> tuple[Run, dict[str, str], Shape]:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise InputError("onnxruntime is missing: pip install onnxruntime") from error
    if not set(PROVIDERS[device]) <= set(onnxruntime.get_available_providers()):
        raise InputError(f"This onnxruntime cannot use {device}: pip install onnxruntime-gpu, or use cpu.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised too
    try:
        session = onnxruntime.InferenceSession(path, options, PROVIDERS[device])
        given, wanted = _first(path, session.get_inputs(), session.get_outputs())
        name, shape = given.name, (_channels(given.shape), _channels(wanted.shape))
        about = session.get_modelmeta().custom_metadata_map
    except InputError:
        raise
    except Exception as error:  # onnxruntime has its own exception types, and decodes names and metadata late
        raise InputError(f"{path}: cannot be loaded as ONNX. Is it complete? Export it again.") from error
    return lambda images: session.run(None, {name: images})[0], about, shape


def _channels(shape: Any) -> int | None:
    """Return the number of channels in the shape of images or volumes; None if it is not fixed."""
    return shape[1] if len(shape) in (4, 5) and isinstance(shape[1], int) else None


def _first(path: Path, inputs: Sequence[Any], outputs: Sequence[Any]) -> tuple[Any, Any]:
    """Return the first input, the image, and the first output of a network."""
    if not inputs or not outputs:
        raise InputError(f"{path}: holds a network without an input or an output. Export it again.")
    return inputs[0], outputs[0]


def _openvino(path: Path, threads: int, precision: str) -> tuple[Run, dict[str, str], Shape]:
    if b"<!DOCTYPE" in path.read_bytes():
        raise InputError(f"{path}: defines XML entities (DOCTYPE), which no export has.")
    hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision]}
    if threads:
        hints["INFERENCE_NUM_THREADS"] = threads
    core = _core()
    try:
        model = core.read_model(path)
        compiled = core.compile_model(model, "CPU", hints)
        content = dict(model.get_rt_info("mlla_seg").value) if model.has_rt_info("mlla_seg") else {}
        given, wanted = (_channels(_sizes(end.partial_shape)) for end in _first(path, model.inputs, model.outputs))
    except InputError:
        raise
    except Exception as error:  # OpenVINO raises RuntimeError, and others for shapes and texts that are damaged
        raise InputError(f"{path}: cannot be loaded by OpenVINO. Is its .bin beside it? Export it again.") from error
    return lambda images: compiled(images)[0], content, (given, wanted)


def _sizes(shape: Any) -> list[int | None]:
    """Return the sizes in a shape of OpenVINO, None where one is not fixed; empty if their number is not."""
    return [size.get_length() if size.is_static else None for size in shape] if shape.rank.is_static else []


@cache
def _core() -> Any:
    """Return OpenVINO's core, one per process."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise InputError("OpenVINO is missing: pip install openvino") from error
    return openvino.Core()


def _checked(run: Run, outputs: int, path: Path) -> Run:
    """Make a damaged network raise an error of one line, when a step fails or its output has an unexpected shape."""

    def checked(images: Array) -> Array:
        given = " x ".join(map(str, images.shape))
        try:
            found = run(images)
        except Exception as error:  # of the engine
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: fails on images of {given} ({reason}). Export it again.") from error
        expected = (len(images), outputs, *images.shape[2:])
        if found.shape != expected:
            raise InputError(
                f"{path}: returns {' x '.join(map(str, found.shape))} for images of {given}, expected "
                f"{' x '.join(map(str, expected))}. Export it again."
            )
        return found

    return checked


def _logits_of(run: Run, outputs: str, regions: bool, path: Path) -> Run:
    """Make an exported network return logits; of probabilities p they are log p, or for regions log p / (1 - p)."""
    if outputs == "labels":
        raise InputError(
            f"{path}: returns labels, which cannot be blended over windows. Export it with --outputs logits."
        )
    if outputs == "logits":
        return run
    smallest = np.finfo(np.float32).tiny

    def logits(images: Array) -> Array:
        found = run(images)
        inside = np.log(np.maximum(found, smallest))
        return inside - np.log(np.maximum(1 - found, smallest)) if regions else inside

    return logits

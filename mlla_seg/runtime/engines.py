"""Engines that run an exported network: onnxruntime for ``.onnx``, OpenVINO for ``.xml``; neither needs torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.dataspec import KEYS, DataSpec
from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError, lookup, program

Run = Callable[[Array], Array]
"""Maps images ``(B, C, H, W)`` float32 in raw units to what the file gives."""

PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider"]}
"""Devices, and onnxruntime's names for them."""
HINTS = {"fp32": "f32", "bf16": "bf16"}
"""Names of precisions, and OpenVINO's for them."""


def open_engine(path: Path, device: str = "cpu", threads: int = 0, precision: str = "fp32") -> tuple[Run, DataSpec]:
    """Loads an exported network.

    Args:
        path: An ``.onnx``, or the ``.xml`` of OpenVINO beside its ``.bin``.
        device: ``cpu`` or, with onnxruntime-gpu, ``cuda``.
        threads: Threads of the engine, by default one per core.
        precision: ``fp32``, or for OpenVINO ``bf16``: faster on processors that know it.

    Returns:
        What gives logits, and what the file knows of its data.

    Raises:
        InputError: No such file, not one of this program, one that gives labels, or a missing package.
    """
    lookup(PROVIDERS, device, "device")
    lookup(HINTS, precision, "precision")
    if not path.is_file():
        known = "openvino" if path.suffix == ".xml" else "onnx"
        raise InputError(f"{path}: no such file. {program()} export --format {known} writes one.")
    if path.suffix == ".xml":
        if device != "cpu":
            raise InputError(f"{path}: OpenVINO runs on the cpu here; for cuda export an ONNX.")
        run, content = _openvino(path, threads, precision)
    else:
        if precision != "fp32":
            raise InputError(f"{path}: an ONNX has its precision; export with --format openvino, and run that in bf16.")
        run, content = _onnxruntime(path, device, threads)
    if "mlla_seg_version" not in content:
        raise InputError(f"{path}: was not written by {program()} export: it does not say its classes.")
    facts = {}
    for key, value in content.items():
        with suppress(json.JSONDecodeError):  # which other programs that changed the file have added
            facts[key] = json.loads(value)
    spec = DataSpec.from_dict({key: value for key, value in facts.items() if key in KEYS}, str(path))
    return _logits_of(run, facts["outputs"], path), spec


def _onnxruntime(path: Path, device: str, threads: int) -> tuple[Run, dict[str, str]]:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise InputError("onnxruntime is missing: pip install onnxruntime") from error
    if not set(PROVIDERS[device]) <= set(onnxruntime.get_available_providers()):
        raise InputError(f"This onnxruntime cannot use {device}: pip install onnxruntime-gpu, or take the cpu.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, PROVIDERS[device])
    except Exception as error:  # of onnxruntime's own kinds
        raise InputError(f"{path}: cannot be loaded as ONNX. Is it complete? Export it again.") from error
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0], session.get_modelmeta().custom_metadata_map


def _openvino(path: Path, threads: int, precision: str) -> tuple[Run, dict[str, str]]:
    hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision]}
    if threads:
        hints["INFERENCE_NUM_THREADS"] = threads
    try:
        model = _core().read_model(path)
        compiled = _core().compile_model(model, "CPU", hints)
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be loaded by OpenVINO. Is its .bin beside it? Export it again.") from error
    content = model.get_rt_info("mlla_seg").value if model.has_rt_info("mlla_seg") else {}
    return lambda images: compiled(images)[0], content


@cache
def _core() -> Any:
    """One for the process: what it has loaded stays as long as networks use it."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise InputError("OpenVINO is missing: pip install openvino") from error
    return openvino.Core()


def _logits_of(run: Run, outputs: str, path: Path) -> Run:
    """Logits of what a file gives; logarithms of probabilities are logits as well."""
    if outputs == "labels":
        raise InputError(
            f"{path}: gives labels, which cannot be blended over windows. Export it with --outputs logits."
        )
    if outputs == "logits":
        return run
    smallest = np.finfo(np.float32).tiny
    return lambda images: np.log(np.maximum(run(images), smallest))

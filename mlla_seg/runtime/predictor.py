"""Prediction with exported segmenters, without torch, by the same steps as in training.

``python -m mlla_seg.runtime model.onnx image.nii.gz mask.nii.gz``, or in Python ``Segmenter("model.onnx")(image)``. The
file stores the parameters of these steps: channels, neighbouring slices, sizes, windows. An ``.onnx`` needs
onnxruntime, an ``.xml`` OpenVINO; formats need their readers: nibabel for NIfTI, SimpleITK, h5py, Pillow, rasterio.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.source_files import Sources
from mlla_seg.errors import InputError
from mlla_seg.finite import require_finite_logits
from mlla_seg.inference.base import CaseSegmenter
from mlla_seg.inference.steps import Engine
from mlla_seg.runtime import resize
from mlla_seg.runtime.engines import Run, beside, open_engine


class ArrayEngine(Engine):
    """Engine for an exported network, with NumPy.

    Args:
        run: Maps images ``(B, C, H, W)`` or volumes ``(B, C, D, H, W)`` float32 in raw units to logits.
        writes: Class that each region writes, None for a network of classes; see :mod:`mlla_seg.data.regions`.
    """

    def __init__(self, run: Run, writes: list[int] | None = None) -> None:
        self._run = run
        self.writes = writes

    def volume(self, array: Array) -> Array:
        return array

    def load(self, pieces: Any) -> Array:
        return np.stack(pieces).astype(np.float32)

    def run(self, images: Array) -> Array:
        return self._run(images)

    def fill_gaps(self, images: Array) -> Array:
        return resize.fill_gaps(images)

    def resize_images(self, images: Array, size: tuple[int, int]) -> Array:
        return resize.resize_images(images, size)

    def resize_logits(self, logits: Array, size: tuple[int, int]) -> Array:
        return resize.resize_logits(logits, size)

    def put(self, array: Array) -> Array:
        return array

    def join(self, bands: list[Array]) -> Array:
        return np.concatenate(bands, axis=1)

    def stack(self, batches: list[Array]) -> Array:
        return np.concatenate(batches)

    def spare_memory(self, change: bool) -> bool:
        return False  # an exported network computes in one way

    def expect(self, left: float) -> None:
        pass  # it was compiled when it was loaded

    def labels(self, logits: Array, axis: int) -> Array:
        require_finite_logits(logits.max(axis))
        if self.writes is None:
            return logits.argmax(axis).astype(np.uint8)
        found = np.zeros_like(logits.take(0, axis), np.uint8)
        for i, k in enumerate(self.writes):  # later regions overwrite earlier ones
            found[logits.take(i, axis) > 0] = k
        return found

    def probabilities(self, logits: Array, axis: int) -> Array:
        if self.writes is not None:
            return np.exp(-np.logaddexp(0, -logits))  # sigmoid, without overflow
        powers = np.exp(logits - logits.max(axis, keepdims=True))
        return powers / powers.sum(axis, keepdims=True)


class Segmenter(CaseSegmenter):
    """Exported segmenter.

    Args:
        path: ONNX file or OpenVINO's ``.xml``, exported by this program with logits or probabilities.
        device: ``cpu`` or, with onnxruntime-gpu, ``cuda``.
        threads: Threads of the engine; one per core by default.
        precision: ``fp32``, or with OpenVINO ``bf16``.

    Raises:
        InputError: No such file, not exported by this program, or an export of labels.
    """

    def __init__(self, path: str | Path, device: str = "cpu", threads: int = 0, precision: str = "fp32") -> None:
        files = Sources([Path(path), *beside(Path(path))])
        run, spec = open_engine(Path(path), device, threads, precision)
        super().__init__(spec, ArrayEngine(run, spec.writes))
        self._files = files
        self._run = {"device": device, "precision": precision}

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Digest of the exported files, and how the network is run.

        Raises:
            InputError: They were changed since they were loaded.
        """
        weights = self._files.content
        if self._files.changed():
            raise InputError(f"{self._files.files[0]}: was changed while it was loaded. Run the same command again.")
        return {"weights": weights, **self._run}

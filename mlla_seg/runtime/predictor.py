"""Exported segmenters without torch: images to masks with NumPy and an engine, by the same steps as in training.

``python -m mlla_seg.runtime model.onnx image.nii.gz mask.nii.gz``, or in Python ``Segmenter("model.onnx")(image)``.
The file says what the steps are: channels, neighbouring slices, sizes, windows. An ``.onnx`` needs onnxruntime, an
``.xml`` OpenVINO; formats need what reads them: nibabel for NIfTI, SimpleITK, h5py, Pillow, rasterio.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.data.slices import case_moments, is_per_case, network_grid, slices_at, standardised, through_slices
from mlla_seg.errors import InputError
from mlla_seg.finite import require_finite_logits
from mlla_seg.inference.files import CaseSegmenter, Spacing, segment_files
from mlla_seg.inference.scenes import MapOptions, softmax
from mlla_seg.inference.sliding_window import Read, blended_bands
from mlla_seg.runtime.engines import open_engine
from mlla_seg.runtime.resize import fill_gaps, resize_images, resize_logits

OVERLAP = 0.5
"""Overlap of the windows of large slices, as in training."""


class Segmenter(CaseSegmenter):
    """An exported segmenter.

    Args:
        path: An ONNX or OpenVINO's ``.xml``, written by ``python cli.py export``, with logits or probabilities.
        device: ``cpu`` or, with onnxruntime-gpu, ``cuda``.
        threads: Threads of the engine, by default one per core.
        precision: ``fp32``, or with OpenVINO ``bf16``.

    Raises:
        InputError: No such file, not one of this program, or one that gives labels.
    """

    def __init__(self, path: str | Path, device: str = "cpu", threads: int = 0, precision: str = "fp32") -> None:
        self.run, self.spec = open_engine(Path(path), device, threads, precision)

    def windows(self, read: Read, shape: Any, window: Any, *, size: Any = None, **how: Any) -> Iterator[Any]:
        """Blended logits of an image, from above; see :func:`mlla_seg.inference.sliding_window.blended_bands`.

        Args:
            read: Reads a part of the image.
            shape: Height and width of the image.
            window: Height and width of the windows, no larger than the image.
            size: Height and width at which the network sees a window, by default its own.
            how: Further arguments of ``blended_bands``.
        """

        def run(pieces: list[Array]) -> Array:
            images = np.stack([fill_gaps(piece.astype(np.float32)) for piece in pieces])
            return resize_logits(self.run(resize_images(images, size or window)), window)

        return blended_bands(run, lambda array: array, read, shape, window, **how)

    def logits(self, image: Array, batch_size: int = 16, spacing_mm: Spacing | None = None) -> Iterator[Array]:
        """Logits ``(n, K, H, W)`` of the slices of ``(S, C, H, W)``, in order and a few at a time; see ``__call__``."""
        self.require_channels(image)
        grid = network_grid((len(image), *image.shape[-2:]), spacing_mm, self.spec)
        context = self.spec["context"]
        moments = case_moments(image) if is_per_case(self.spec) else None

        def run(positions: list[int]) -> Array:
            chunk = slices_at(image, positions, context, grid[0]).astype(np.float32)
            images = resize_images(fill_gaps(standardised(chunk, moments, context)), grid[1:])
            return resize_logits(self._slices(images, batch_size), image.shape[-2:])

        return through_slices(run, len(image), grid[0], batch_size)

    def _slices(self, images: Array, batch_size: int) -> Array:
        """Logits of slices on the network's grid, by windows where they are larger than those of the training."""
        window, shape = self.spec["window"], images.shape[-2:]
        if window is None or all(n <= w for n, w in zip(shape, window, strict=True)):
            return self.run(images)
        seen = (min(window[0], shape[0]), min(window[1], shape[1]))
        return np.stack([self._by_windows(image, seen, batch_size) for image in images])

    def _by_windows(self, image: Array, window: tuple[int, int], batch_size: int) -> Array:
        def read(top: int, left: int, height: int, width: int) -> Array:
            return image[:, top : top + height, left : left + width]

        shape = (image.shape[-2], image.shape[-1])
        bands = self.windows(read, shape, window, overlap=OVERLAP, batch_size=batch_size)
        return np.concatenate([logits for _, logits in bands], axis=1)

    def labels_of(self, logits: Array) -> Array:
        """Class indices ``(n, H, W)`` uint8 of a block of logits."""
        require_finite_logits(logits.max(axis=1))
        return logits.argmax(axis=1).astype(np.uint8)

    def probabilities_of(self, logits: Array) -> Array:
        """Probabilities ``(n, K, H, W)`` of a block of logits."""
        return softmax(logits, axis=1)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; a mistake of the user ends with its message and status 2, without a traceback."""
    parser = ArgumentParser("python -m mlla_seg.runtime", description="Segment images with an exported network.")
    parser.add_argument("model", help="the .onnx, or OpenVINO's .xml, of python cli.py export")
    parser.add_argument("image", help="an image, a folder of them, or a list of them (.txt)")
    parser.add_argument("output", help="the mask of a single image, or a folder")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with onnxruntime-gpu")
    parser.add_argument("--precision", default="fp32", help="fp32, or for an .xml bf16, where the processor knows it")
    parser.add_argument("--batch_size", type=int, default=4, help="slices or windows at once; decides the memory")
    parser.add_argument("--window", type=int, help="side of the windows of rasters, by default that of the training")
    parser.add_argument("--overlap", type=float, default=0.5, help="of these windows, as a fraction")
    parser.add_argument("--blend", default="gaussian", help="of these windows: gaussian or cosine")
    parser.add_argument("--cog", action="store_true", help="write maps of rasters as Cloud Optimized GeoTIFF")
    parser.add_argument("--polygons", help="also write the regions of maps: gpkg or geojson")
    parser.add_argument("--probabilities", action="store_true", help="also write those of every class beside the mask")
    parser.add_argument("--format", help="of the masks of volumes: nii.gz, nrrd, seg.nrrd, ...")
    given = vars(parser.parse_args(argv))
    try:
        options = MapOptions(**{field.name: given[field.name] for field in fields(MapOptions) if field.name in given})
        segmenter = Segmenter(given["model"], given["device"], precision=given["precision"])
        where = Path(given["image"]), Path(given["output"])
        segment_files(segmenter, *where, options, given["format"], job=f"{given['model']} {given['precision']}")
    except InputError as error:
        sys.exit(_complain(str(error)))


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2

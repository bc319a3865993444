"""From a scene of any size to a map: memory does not grow with the scene.

The scene is gone through by stripes of columns, each from above by a sliding window, and the map is the same for any
width of the stripes. What is done is kept in a folder beside the map, from which a run that was killed goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.geotiff import Raster, open_rasters
from mlla_seg.data.formats.geotiff_masks import FULL, NODATA, write_map, write_probability_map
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.polygons import require_polygons, write_polygons
from mlla_seg.data.slices import seen_by_network
from mlla_seg.errors import InputError, about, lookup
from mlla_seg.finite import require_finite_logits
from mlla_seg.inference.sliding_window import BLENDS, row_bands
from mlla_seg.inference.steps import Engine, window_logits
from mlla_seg.progress import progress

SUMS = 2**28
"""Bytes that the pixels and the sums of logits of a stripe may take: this decides its width."""
WINDOW = (512, 512)
"""Height and width of windows where neither the user nor the training says one."""


@dataclass(frozen=True)
class MapOptions:
    """How a map is made.

    Args:
        window: Side of the square windows that the network sees, by default that of the training crops.
        overlap: Of neighbouring windows, as a fraction of their size, 0 up to 0.9.
        blend: How the logits of overlapping windows are weighted: ``gaussian`` or ``cosine``.
        batch_size: Windows that go through the network at once.
        cog: Write Cloud Optimized GeoTIFF.
        probabilities: Also write the probabilities of every class, beside the map.
        polygons: Also write polygons beside the map, as ``gpkg`` or ``geojson``.
        stripe: Width of the stripes, by default what fits into ``SUMS`` bytes; changes memory, not the map.
    """

    window: int | None = None
    overlap: float = 0.5
    blend: str = "gaussian"
    batch_size: int = 4
    cog: bool = False
    probabilities: bool = False
    polygons: str | None = None
    stripe: int | None = None

    def __post_init__(self) -> None:
        lookup(BLENDS, self.blend, "blend")
        if self.batch_size < 1:
            raise InputError(f"--batch_size is a number of slices or windows, 1 or more, got {self.batch_size}.")
        if self.polygons is not None:
            require_polygons(self.polygons)
        if not 0 <= self.overlap <= 0.9:
            raise InputError(f"--overlap is a fraction of the window from 0 to 0.9, got {self.overlap}.")
        if self.window is not None and self.window < 1:
            raise InputError(f"--window is a number of pixels, 1 or more, got {self.window}.")


def map_files(output: Path, options: MapOptions) -> list[Path]:
    """The map and what is written beside it."""
    files = [output]
    if options.probabilities:
        files.append(output.with_name(f"{output.stem}.probabilities.tif"))
    if options.polygons:
        files.append(output.with_name(f"{output.stem}.{options.polygons}"))
    return files


def predict_scene(
    engine: Engine,
    spec: DataSpec,
    sources: Sequence[Path],
    output: Path,
    options: MapOptions,
    job: str = "",
) -> None:
    """Writes the map of a scene, with a progress bar; goes on where an earlier run of the same job was killed.

    Args:
        engine: The network and what computes around it.
        spec: What the segmenter knows of its data.
        sources: The raster, or several that together hold its bands.
        output: A GeoTIFF.
        options: Windows, and what is written.
        job: What else the map depends on, such as the names of the checkpoints: another job starts anew.

    Raises:
        InputError: Not a raster, or one with other bands than the network was trained on; or logits that are NaN or
            infinite.
    """
    if spec.view.per_case:
        raise InputError(f"{sources[0]}: this network standardises volumes as a whole (per_case), not scenes.")
    bands = spec.bands
    with open_rasters(sources, counts=(len(bands), len(spec.channels))) as raster:
        chosen = _chosen_bands(raster, sources[0], bands, spec.channels)
        shape = raster.shape
        grid = spec.view.grid((1, *shape))[1:]
        wanted = _window(options.window, spec.patch_size)
        if wanted is None:  # trained on whole images, or on nothing that says a size
            wanted = grid if spec.resize is not None else WINDOW
        window, size = seen_by_network(shape, grid, wanted)
        stripes = _stripes(shape[1], options.stripe or _widest(window[0], raster.count, spec))
        rows = row_bands(shape[0], window[0], options.overlap)
        facts: list[Any] = [[str(path.absolute()), path.stat().st_mtime_ns] for path in sources]
        facts += [shape, window, size, options.overlap, options.blend, stripes, options.probabilities, job]
        partial = _Partial(output, shape, len(spec.classes) if options.probabilities else 0, len(stripes), facts)
        done = sum(partial.done)
        with progress(len(stripes) * len(rows), sources[0].name, "row", initial=done) as bar:
            for k, (left, right) in enumerate(stripes):
                if partial.done[k] == len(rows):
                    continue
                blended = window_logits(
                    engine,
                    lambda *part: raster.read(*part)[chosen],
                    shape,
                    window,
                    size,
                    overlap=options.overlap,
                    blend=options.blend,
                    batch_size=options.batch_size,
                    columns=(left, right),
                    first=partial.done[k],
                )
                for top, logits in ((top, engine.array(band)) for top, band in blended):
                    pixels = raster.read(top, left, *logits.shape[1:])[chosen]
                    with about(sources[0]):
                        partial.keep(k, top, left, logits, np.all(np.isfinite(pixels), axis=0))
                    bar.update()
    partial.finish(output, spec, sources[0], options)


def _window(asked: int | None, frame: Sequence[int] | None) -> Sequence[int] | None:
    """Height and width of windows: what is asked for, or the training samples' own.

    Raises:
        InputError: The network would pad every window to the size of its training samples.
    """
    if asked is None:
        return frame
    if frame is not None and asked < max(frame):
        height, width = frame
        raise InputError(
            f"--window {asked}: is smaller than the samples of the training, {height} x {width}, to which the network "
            f"would pad every window. Give {max(frame)} or more; --batch_size decides the memory."
        )
    return asked, asked


def _chosen_bands(raster: Raster, source: Path, bands: Sequence[str], channels: Sequence[str]) -> slice | list[int]:
    """Which bands the network sees, in its order; a slice, which copies nothing, where it is all of them.

    Raises:
        InputError: They are neither those of the training files nor just the network's channels.
    """
    if raster.count == len(channels) and (len(bands) != len(channels) or list(bands) == list(channels)):
        return slice(None)
    if raster.count == len(bands):
        return [bands.index(name) for name in channels]
    files = f" (files with {len(bands)}: {', '.join(bands)})" if list(bands) != list(channels) else ""
    raise InputError(
        f"{source}: has {raster.count} bands; this network was trained on {len(channels)} ({', '.join(channels)})"
        f"{files}."
    )


def _widest(height: int, channels: int, spec: DataSpec) -> int:
    """Columns of a stripe whose pixels and sums of logits fit into ``SUMS`` bytes."""
    return max(height, SUMS // (4 * height * (channels + len(spec.classes))))


def _stripes(width: int, widest: int) -> list[tuple[int, int]]:
    """First and end columns of stripes of about the same width."""
    count = math.ceil(width / widest)
    edges = [round(k * width / count) for k in range(count + 1)]
    return list(pairwise(edges))


class _Partial:
    """What is there of a map so far, in files beside it."""

    def __init__(
        self, output: Path, shape: tuple[int, int], probabilities: int, stripes: int, facts: Sequence[Any]
    ) -> None:
        self.folder = output.with_name(f".{output.name}.partial")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shape = shape
        self.probabilities = probabilities > 0
        job = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        note = self.folder / "job"
        if not note.is_file() or note.read_text() != job:  # written last, when all files are there
            _create(self.folder / "labels.npy", shape, np.uint8)
            _create(self.folder / "done.npy", (stripes,), np.int64)
            if self.probabilities:
                _create(self.folder / "probabilities.npy", (probabilities, *shape), np.uint8)
            note.write_text(job)
        self.done: list[int] = np.load(self.folder / "done.npy").tolist()
        """Bands of rows that are there, by stripe."""

    def _array(self, name: str, mode: Any = "r") -> Array:
        """An array, mapped into memory anew each time, so that pages that were used do not stay there."""
        return np.load(self.folder / f"{name}.npy", mmap_mode=mode)

    def keep(self, stripe: int, top: int, left: int, logits: Array, present: Array) -> None:
        """Keeps a band of a stripe; it counts as done only once it is in the files."""
        require_finite_logits(logits.max(axis=0))
        _, height, width = logits.shape
        place = (slice(top, top + height), slice(left, left + width))
        self._write("labels", place, np.where(present, logits.argmax(axis=0).astype(np.uint8), NODATA))
        if self.probabilities:
            stored = np.rint(FULL * softmax(np.where(present, logits, 0))).astype(np.uint8)
            self._write("probabilities", (slice(None), *place), np.where(present, stored, NODATA))
        self.done[stripe] += 1
        self._write("done", (slice(stripe, stripe + 1),), np.array([self.done[stripe]]))

    def _write(self, name: str, place: tuple[slice, ...], values: Array) -> None:
        mapped = self._array(name, "r+")
        mapped[place] = values
        mapped.flush()  # type: ignore[attr-defined]  # of a memory-mapped array

    def finish(self, output: Path, spec: DataSpec, source: Path, options: MapOptions) -> None:
        """Writes the map and what belongs to it, and removes the folder."""
        classes = spec.classes
        targets = map_files(output, options)
        ready = [self.folder / target.name for target in targets]
        write_map(
            ready[0],
            lambda rows, columns: np.array(self._array("labels")[rows, columns]),
            self.shape,
            classes,
            source,
            options.cog,
        )
        if options.probabilities:
            write_probability_map(
                ready[1],
                lambda rows, columns: np.array(self._array("probabilities")[:, rows, columns]),
                self.shape,
                [entry.name for entry in classes],
                source,
                options.cog,
            )
        if options.polygons:
            write_polygons(ready[-1], ready[0], classes, spec.background, options.polygons)
        for path, target in zip(reversed(ready), reversed(targets), strict=True):  # the map last
            os.replace(path, target)
        shutil.rmtree(self.folder)


def softmax(logits: Array, axis: int = 0) -> Array:
    """Probabilities of the classes along an axis."""
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def _create(path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    """An array of zeros whose file takes no room where nothing was written."""
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()

"""From a network and a scene of any size to a map, a block at a time: memory does not grow with the scene.

Windows lie on a grid that the scene alone decides, and their logits are blended by a Gaussian. A block takes all
windows that touch it, so the map does not depend on the size of the blocks; those at a border are computed for both
sides. What is done is kept in a folder beside the map, from which a run that was killed goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlla_seg.data.picture import Array
from mlla_seg.data.rasters import NODATA, open_raster, read_part, write_map
from mlla_seg.errors import InputError
from mlla_seg.inference import predict_logits
from mlla_seg.slices import network_grid

Read = Callable[[int, int, int, int], Tensor]
"""Gives ``(C, height, width)`` float32 for top, left, height and width, NaN where there is no data."""


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along an axis, so that they cover it; the last one is moved back to end with it."""
    step = max(1, int(window * (1 - overlap)))
    return sorted({min(start, size - window) for start in range(0, max(size - window, 0) + step, step)})


def blend_weights(window: Sequence[int]) -> Tensor:
    """Weights ``(height, width)`` of a window's logits: a Gaussian, whose deviation is an eighth of the window."""
    from monai.data.utils import compute_importance_map

    return compute_importance_map(tuple(window), mode="gaussian", sigma_scale=0.125)


@torch.inference_mode()
def block_logits(
    network: nn.Module,
    read: Read,
    scene: tuple[int, int],
    block: tuple[int, int, int, int],
    window: tuple[int, int],
    overlap: float,
    device: torch.device | str,
    batch_size: int,
    how: Mapping[str, Any],
) -> Tensor:
    """Blended logits ``(K, height, width)`` float32 of a block of a scene, on the CPU.

    Args:
        network: Maps ``(B, C, h, w)`` to ``(B, K, h, w)``.
        read: Reads a part of the scene.
        scene: Height and width of the whole scene.
        block: Top, left, height and width.
        window: Height and width of the windows that the network sees, no larger than the scene.
        overlap: Of neighbouring windows, as a fraction of their size.
        device: Where the network is.
        batch_size: Windows that go through the network at once.
        how: ``resize`` of the spec, to which windows are brought.
    """
    top, left, height, width = block
    rows, columns = (
        [s for s in window_starts(size, w, overlap) if s < first + count and s + w > first]
        for size, w, first, count in zip(scene, window, (top, left), (height, width), strict=True)
    )
    around = read(rows[0], columns[0], rows[-1] + window[0] - rows[0], columns[-1] + window[1] - columns[0])
    _, *size = network_grid((1, *window), None, how)
    weights = blend_weights(window)
    total = torch.zeros(())
    weight = torch.zeros(height, width)
    for batch in _batches([(r, c) for r in rows for c in columns], batch_size):
        images = torch.stack([fill_gaps(_cut(around, (r - rows[0], c - columns[0]), window)) for r, c in batch])
        logits = predict_logits(network, images.to(device, torch.float32), (size[0], size[1])).float().cpu()
        if total.ndim == 0:
            total = torch.zeros(logits.shape[1], height, width)
        for (r, c), own in zip(batch, logits, strict=True):
            inner = (max(r, top), min(r + window[0], top + height), max(c, left), min(c + window[1], left + width))
            there = (slice(inner[0] - top, inner[1] - top), slice(inner[2] - left, inner[3] - left))
            here = (slice(inner[0] - r, inner[1] - r), slice(inner[2] - c, inner[3] - c))
            total[(slice(None), *there)] += own[(slice(None), *here)] * weights[here]
            weight[there] += weights[here]
    return total / weight


def _batches(windows: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(windows), size):
        yield windows[first : first + size]


def fill_gaps(image: Tensor) -> Tensor:
    """Puts the mean of its band in place of NaN in ``(C, H, W)``, 0 in bands without any value."""
    gaps = image.isnan()
    if not gaps.any():
        return image
    means = image.nanmean(dim=(-2, -1), keepdim=True).nan_to_num(0)
    return torch.where(gaps, means, image)


def _cut(image: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return image[:, corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]


def predict_scene(
    network: nn.Module,
    spec: Mapping[str, Any],
    source: Path,
    output: Path,
    device: torch.device | str = "cpu",
    window: int | None = None,
    overlap: float = 0.5,
    block: int = 2048,
    batch_size: int = 4,
    cog: bool = False,
    job: str = "",
) -> None:
    """Writes the map of a scene, with a progress bar; goes on where an earlier run of the same job was killed.

    Args:
        network: A trained segmenter, on its device.
        spec: What it knows of its data.
        source: A raster.
        output: A GeoTIFF.
        device: Where the network is.
        window: Side of the square windows, by default that of the training crops, or 512.
        overlap: Of neighbouring windows, as a fraction of their size, 0 up to 0.9.
        block: Side of the blocks that are read and written; changes memory and speed, not the map.
        batch_size: Windows that go through the network at once.
        cog: Write a Cloud Optimized GeoTIFF.
        job: What else the map depends on, such as the names of the checkpoints: another job starts anew.

    Raises:
        InputError: Not a raster, or one with other bands than the network was trained on.
    """
    from tqdm import tqdm

    if not 0 <= overlap <= 0.9:
        raise InputError(f"--overlap is a fraction of the window from 0 to 0.9, got {overlap}.")
    with open_raster(source) as dataset:
        channels = spec["channels"]
        if dataset.count != len(channels):
            raise InputError(
                f"{source}: has {dataset.count} bands; this network was trained on {len(channels)} "
                f"({', '.join(channels)})."
            )
        scene = (dataset.height, dataset.width)
        side = [window, window] if window else spec["window"] or [512, 512]
        seen = (min(side[0], scene[0]), min(side[1], scene[1]))
        corners = [(top, left) for top in range(0, scene[0], block) for left in range(0, scene[1], block)]
        facts = [str(source.absolute()), source.stat().st_mtime_ns, scene, seen, overlap, block, job]
        partial = _Partial(output, scene, len(corners), facts)
        read: Read = lambda *part: torch.from_numpy(read_part(dataset, *part))  # noqa: E731
        todo = [k for k in range(len(corners)) if not partial.done[k]]
        for k in tqdm(todo, desc=source.name, unit="block", initial=len(corners) - len(todo), total=len(corners)):
            top, left = corners[k]
            place = (top, left, min(block, scene[0] - top), min(block, scene[1] - left))
            present = np.isfinite(read_part(dataset, *place)).all(axis=0)
            if present.any():
                logits = block_logits(network, read, scene, place, seen, overlap, device, batch_size, spec)
                labels = logits.argmax(dim=0).to(torch.uint8).numpy()
            else:
                labels = np.zeros(present.shape, np.uint8)
            partial.keep(k, place, np.where(present, labels, NODATA))
    partial.finish(output, spec["classes"], source, cog)


class _Partial:
    """The labels of a scene that are there so far, in files beside the map."""

    def __init__(self, output: Path, scene: tuple[int, int], blocks: int, facts: Sequence[Any]) -> None:
        self.folder = output.with_name(f".{output.name}.partial")
        self.folder.mkdir(parents=True, exist_ok=True)
        job = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        note = self.folder / "job"
        if not note.is_file() or note.read_text() != job:  # written last, when both files are there
            _create(self.folder / "labels.npy", scene, NODATA)
            _create(self.folder / "done.npy", (blocks,), 0)
            note.write_text(job)
        self.scene = scene
        self.done: Array = np.load(self.folder / "done.npy")

    def _labels(self, mode: Any) -> Array:
        """The labels, mapped into memory anew each time, so that pages that were written do not stay there."""
        return np.load(self.folder / "labels.npy", mmap_mode=mode)

    def keep(self, k: int, place: tuple[int, int, int, int], labels: Array) -> None:
        """Keeps a block; it counts as done only once its labels are in the file."""
        top, left, height, width = place
        mapped = self._labels("r+")
        mapped[top : top + height, left : left + width] = labels
        mapped.flush()  # type: ignore[attr-defined]  # of a memory-mapped array
        done = np.load(self.folder / "done.npy", mmap_mode="r+")
        done[k] = 1
        done.flush()

    def finish(self, output: Path, classes: Sequence[Mapping[str, Any]], source: Path, cog: bool) -> None:
        """Writes the map and removes the folder."""
        temporary = self.folder / output.name
        write_map(
            temporary,
            lambda rows, columns: np.array(self._labels("r")[rows, columns]),
            self.scene,
            classes,
            source,
            cog,
        )
        os.replace(temporary, output)
        shutil.rmtree(self.folder)


def _create(path: Path, shape: tuple[int, ...], value: int) -> None:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for row in range(0, len(array), 1024):  # and not all of it in memory at once
        array[row : row + 1024] = value
    array.flush()

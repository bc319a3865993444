"""Compare an exported file with its checkpoint: differences, times and sizes."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlla_seg.checksums import sums_of
from mlla_seg.data import outputs
from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError
from mlla_seg.export.exportable import Job, example_image
from mlla_seg.places import shareable
from mlla_seg.texts import read_json

SIZES = ((17, 30), (64, 64), (224, 224), (224, 352), (225, 257))
"""Heights and widths of the compared images, including small, odd and non-square ones."""
VOLUMES = ((5, 17, 30), (33, 24, 41))
"""Slices, heights and widths of the compared volumes, likewise."""
TOLERANCES = {"float32": (1e-4, 2e-6), "float16": (0.0, 2e-2), "int8": (float("inf"), 0.0)}
"""Absolute tolerance of logits, and relative to the largest logit, because rounding grows with the logits; the larger
of the two applies. int8 is checked by its labels alone."""
SAME_LABELS = {"float32": 0.999, "float16": 0.99, "int8": 0.95}
"""Smallest fraction of pixels with equal labels."""
REPEATS = 3


def parity_path(target: Path) -> Path:
    """Return the file for the comparison of an exported file or folder."""
    return target.with_name(f"{target.name}.parity.json")


def files_compared(target: Path) -> Collection[str]:
    """Return the names of the files of an earlier export to the same place."""
    try:
        files = read_json(parity_path(target))["files"]
    except (InputError, KeyError, TypeError):  # there is none, or it is damaged
        return ()
    return files if isinstance(files, dict) else ()


@dataclass(frozen=True)
class Engine:
    """Runner of an exported file."""

    name: str
    run: Callable[[Array], Array]
    """Maps ``(B, C, *spatial)`` float32 in raw units to the output of the file."""
    images: Sequence[Tensor] | None = None
    """Images to compare on, instead of random ones of ``SIZES`` or ``VOLUMES``."""
    expected: Callable[[Tensor], Tensor] | None = None
    """Computes the expected logits of such images, if it is not the network alone."""
    least: int = 1
    """Smallest height and width in pixels, and number of slices."""


@dataclass(frozen=True)
class ImageParity:
    """Comparison on one image."""

    shape: tuple[int, ...]
    difference: float
    """Largest difference of logits or probabilities; for labels, the smallest that would explain the labels."""
    largest: float
    """Largest absolute value of the checkpoint's logits or probabilities."""
    same_labels: float
    """Fraction of pixels with the same label."""
    torch_ms: float
    engine_ms: float


@dataclass(frozen=True)
class ParityReport:
    """Comparison of a file with its checkpoint."""

    file: str
    size_mb: float
    checkpoints: list[str]
    weights: str
    outputs: str
    precision: str
    engine: str
    machine: str
    rows: list[ImageParity]

    @property
    def problem(self) -> str:
        """Message about the first difference above tolerance; empty if there is none."""
        for row in self.rows:
            absolute, relative = TOLERANCES[self.precision]
            tolerance = max(absolute, relative * row.largest)
            at = " x ".join(map(str, row.shape[2:]))
            if not row.difference <= tolerance:  # fails for NaN too
                return f"{self.outputs} at {at} differ by {row.difference:.2g}, more than {tolerance:.2g}"
            if row.same_labels < SAME_LABELS[self.precision]:
                return f"{row.same_labels:.2%} of labels at {at} agree, less than {SAME_LABELS[self.precision]:.1%}"
        return ""

    def table(self) -> str:
        """Return the comparison as a table for the terminal."""
        lines = [
            f"{self.file}: {self.size_mb:.1f} MB, {self.outputs}, {self.precision}; {self.engine} against torch "
            f"{torch.__version__}",
            f"{'image':>20}  {'max |difference|':>16}  {'same labels':>11}  {'torch':>10}  {'this file':>10}",
        ]
        for row in self.rows:
            shape = " x ".join(map(str, row.shape))
            lines.append(
                f"{shape:>20}  {row.difference:16.2e}  {row.same_labels:11.3%}  {row.torch_ms:7.1f} ms  "
                f"{row.engine_ms:7.1f} ms"
            )
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write the comparison as JSON, with the checksums of all files in the folder."""
        files = sums_of(sorted(file for file in path.parent.rglob("*") if file.is_file()), path.parent)
        content = {**asdict(self), "torch": torch.__version__, "files": files}
        path.write_text(json.dumps(content, indent=2) + "\n")


def compare(job: Job, engine: Engine, path: Path, checkpoints: Sequence[str], averaged: bool = False) -> ParityReport:
    """Run a file and its original network on the same images.

    Args:
        job: Options of the export.
        engine: Runner of the file.
        path: The file, or a folder.
        checkpoints: Paths of the checkpoints, for the report.
        averaged: Whether the weights are a moving average, for the report.
    """
    rows = [_compare_on(job, engine, image) for image in engine.images or _examples(job, engine.least)]
    files = [path, *path.rglob("*"), *path.parent.glob(f"{path.name}.data"), *path.parent.glob(f"{path.stem}.bin")]
    size = sum(file.stat().st_size for file in files if file.is_file())
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    weights = "moving average" if averaged else "as trained"
    names = [shareable(str(name)) for name in checkpoints]
    about = (path.name, size / 1e6, names, weights, job.outputs, job.precision, engine.name, machine)
    return ParityReport(*about, rows)


def _examples(job: Job, least: int) -> list[Tensor]:
    """Return images of ``SIZES``, or ``VOLUMES``, and of the training size, if no side is below ``least``."""
    own = job.spec.patch_size or job.spec.resize
    common: Sequence[tuple[int, ...]] = VOLUMES if job.spec.axes == 3 else SIZES
    sizes = [*common, own] if isinstance(own, tuple) else common
    fitting = [size for size in dict.fromkeys(sizes) if min(size) >= least]
    return [example_image(job.spec, (1, job.channels, *size), k) for k, size in enumerate(fitting)]


@torch.inference_mode()
def _compare_on(job: Job, engine: Engine, image: Tensor) -> ImageParity:
    array = image.numpy()
    expected, torch_ms = _timed(lambda: (engine.expected or job.network)(image).float())
    output, engine_ms = _timed(lambda: engine.run(array))
    found = torch.from_numpy(output)
    writes = job.spec.writes
    labels = outputs.labels(expected, writes)
    if job.outputs == "labels":
        difference = explained_by(expected, found, writes).max().item()
    elif job.outputs == "probabilities":
        expected = outputs.probabilities(expected, writes)
        difference = (found - expected).abs().max().item()
        found = outputs.labels(found - 0.5, writes)
    else:
        difference = (found - expected).abs().max().item()
        found = outputs.labels(found, writes)
    same = (found == labels).float().mean().item()
    return ImageParity(tuple(image.shape), difference, expected.abs().max().item(), same, torch_ms, engine_ms)


def explained_by(logits: Tensor, labels: Tensor, writes: list[int] | None) -> Tensor:
    """Return the smallest difference of some logit that explains each label, ``(B, *spatial)``; 0 for the own label.

    Args:
        logits: Expected logits ``(B, K, *spatial)``.
        labels: Class indices found, ``(B, *spatial)``.
        writes: Class that each region writes; None for classes.
    """
    if writes is None:  # some logit differs by at least half the margin by which the expected class leads
        return (logits.max(dim=1).values - logits.gather(1, labels[:, None].long())[:, 0]) / 2
    needed = torch.zeros(labels.shape)
    for i in range(len(writes)):  # the region that writes the label is above 0, and no later one
        above = logits[:, i].clamp(min=0)
        needed = torch.where(labels == writes[i], (-logits[:, i]).clamp(min=0), torch.maximum(needed, above))
    return needed


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a call and its median time in ms after a warm-up call."""
    result = run()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return result, 1000 * statistics.median(times)

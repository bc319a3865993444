"""Does an exported file give what its checkpoint gives? Differences, times and sizes, the table that ends an export."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlla_seg.data.formats.picture import Array
from mlla_seg.export.exportable import Job, example_image

SIZES = ((64, 64), (224, 224), (224, 352), (225, 257))
"""Heights and widths at which files are compared: odd and non-square ones are among them."""
TOLERANCES = {"float32": (1e-4, 2e-6), "float16": (0.0, 2e-2), "int8": (float("inf"), 0.0)}
"""Largest difference of logits, and the same as a fraction of the largest logit, of which the more lenient one counts:
rounding grows with the logits. int8 is held by its labels alone."""
SAME_LABELS = {"float32": 0.999, "float16": 0.99, "int8": 0.95}
"""Smallest share of pixels whose labels are the same."""
REPEATS = 3


@dataclass(frozen=True)
class Engine:
    """What runs an exported file."""

    name: str
    run: Callable[[Array], Array]
    """Maps ``(B, C, H, W)`` float32 in raw units to what the file gives."""
    images: Sequence[Tensor] | None = None
    """Images by which it is compared, where it does not take any."""
    expected: Callable[[Tensor], Tensor] | None = None
    """What gives the checkpoint's logits of such images, where it is not the network alone."""


@dataclass(frozen=True)
class Row:
    """One comparison."""

    shape: tuple[int, ...]
    difference: float
    """Largest difference of logits or probabilities; where a file gives labels, the least that would explain them."""
    largest: float
    """Largest value of the checkpoint's logits or probabilities, without sign."""
    same_labels: float
    """Share of pixels with the same label."""
    torch_ms: float
    engine_ms: float


@dataclass(frozen=True)
class Report:
    """The comparison of a file with its checkpoint."""

    file: str
    size_mb: float
    checkpoints: list[str]
    weights: str
    outputs: str
    precision: str
    engine: str
    machine: str
    rows: list[Row]

    @property
    def problem(self) -> str:
        """What is above tolerance, in words; empty if nothing is."""
        for row in self.rows:
            absolute, relative = TOLERANCES[self.precision]
            tolerance = max(absolute, relative * row.largest)
            at = "{} x {}".format(*row.shape[2:])
            if not row.difference <= tolerance:  # NaN is no agreement
                return f"{self.outputs} at {at} differ by {row.difference:.2g}, more than {tolerance:.2g}"
            if row.same_labels < SAME_LABELS[self.precision]:
                return f"{row.same_labels:.2%} of labels at {at} agree, less than {SAME_LABELS[self.precision]:.1%}"
        return ""

    def table(self) -> str:
        """For people."""
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
        """Writes it as JSON."""
        path.write_text(json.dumps({**asdict(self), "torch": torch.__version__}, indent=2) + "\n")


def compare(job: Job, engine: Engine, path: Path, checkpoints: Sequence[str], averaged: bool = False) -> Report:
    """Runs a file and the network it was made from on the same images.

    Args:
        job: What was exported.
        engine: Runs the file.
        path: The file, or a folder.
        checkpoints: Where the network comes from, for the report.
        averaged: Whether its weights are a moving average, for the report.
    """
    rows = [_compare_on(job, engine, image) for image in engine.images or _examples(job)]
    files = [path, *path.rglob("*"), *path.parent.glob(f"{path.name}.data"), *path.parent.glob(f"{path.stem}.bin")]
    size = sum(file.stat().st_size for file in files if file.is_file())
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    weights = "moving average" if averaged else "as trained"
    about = (path.name, size / 1e6, list(checkpoints), weights, job.outputs, job.precision, engine.name, machine)
    return Report(*about, rows)


def _examples(job: Job) -> list[Tensor]:
    """Images at ``SIZES``, and at the size that the network was trained with."""
    own = job.spec.patch_size or job.spec.resize
    sizes = [*SIZES, own] if isinstance(own, tuple) else SIZES
    return [example_image(job.spec, (1, job.channels, *size), k) for k, size in enumerate(dict.fromkeys(sizes))]


@torch.inference_mode()
def _compare_on(job: Job, engine: Engine, image: Tensor) -> Row:
    array = image.numpy()
    expected, torch_ms = _timed(lambda: (engine.expected or job.network)(image).float())
    output, engine_ms = _timed(lambda: engine.run(array))
    found = torch.from_numpy(output)
    labels = expected.argmax(dim=1)
    if job.outputs == "probabilities":
        expected = expected.softmax(dim=1)
    if job.outputs == "labels":
        # Logits that put another class first differ by at least half of what the right one was ahead.
        ahead = expected.max(dim=1).values - expected.gather(1, found[:, None].long())[:, 0]
        difference = ahead.max().item() / 2
    else:
        difference = (found - expected).abs().max().item()
        found = found.argmax(dim=1)
    same = (found == labels).float().mean().item()
    return Row(tuple(image.shape), difference, expected.abs().max().item(), same, torch_ms, engine_ms)


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and the median of its time in ms after a first one."""
    result = run()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return result, 1000 * statistics.median(times)

"""The command benchmark: compare a segmenter with the reference implementation and other networks."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import torch

from mlla_seg.benchmark import measures, networks
from mlla_seg.benchmark.networks import Contestant
from mlla_seg.errors import InputError, lookup
from mlla_seg.evaluation import plots, tables
from mlla_seg.inference.optimize import PRECISIONS, device_named
from mlla_seg.models.cost import macs
from mlla_seg.models.decoders import DECODERS
from mlla_seg.progress import progress, say

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Settings with which glibc keeps freed memory; otherwise page faults would dominate the measured times."""

UNKNOWN = float("nan")
"""Value of columns that cannot be measured for engines and compiled networks."""

PIXELS_PER_BATCH = 1024**2
"""Pixels per batch for throughput on CPU; 16 times as many on other devices."""


# Literals built from the registries, so that --help lists the choices.
DecoderName: TypeAlias = Literal[tuple(DECODERS)]  # type: ignore[valid-type]
PrecisionName: TypeAlias = Literal[tuple(PRECISIONS)]  # type: ignore[valid-type]


def benchmark(
    encoder: str = "mlla_tiny",
    decoder: DecoderName = "mlla_unet",
    sizes: list[int] = [224, 512, 1024],  # noqa: B006 - read only, and shown by --help
    precision: list[PrecisionName] = ["fp32", "bf16"],  # noqa: B006
    backward: bool = False,
    compile: bool = False,
    engines: bool = False,
    peers: bool = True,
    device: str = "auto",
    repeats: int = 5,
    fix_malloc: bool = True,
    output: str = "runs/benchmark",
) -> None:
    """Measure time and memory of a segmenter, its reference implementation and other networks.

    All networks run interleaved in one process; times are medians. Weights are random and images have three channels.

    Args:
        encoder: MLLA encoder, such as mlla_tiny.
        decoder: Decoder of the MLLA encoder.
        sizes: Sides of square images, such as `--sizes 224 512 1024 2048`.
        precision: fp32, bf16, fp16.
        backward: Measure a training step (forward, backward, update) and its saved activations instead of inference.
        compile: Also measure compiled networks: as `predict --compile true`, or with torch.compile for training.
        engines: Also measure exports in onnxruntime and OpenVINO (inference on CPU only).
        peers: Also measure smp's Unet with ResNet-34, ConvNeXt-T and Swin-T, and MONAI's DynUNet.
        device: cpu, cuda, ... or auto for a GPU if there is one.
        repeats: Number of timed runs, of which the median is taken.
        fix_malloc: Let glibc keep freed memory; false includes the cost of returning it to the system.
        output: Folder for benchmark.csv, benchmark.json (with the machine) and benchmark.png.
    """
    for name in precision:
        lookup(PRECISIONS, name, "precision")
    if min(sizes) < 64 or repeats < 1:
        raise InputError(f"--sizes must be 64 pixels or more and --repeats 1 or more, got {sizes} and {repeats}.")
    device = device_named(device)
    if engines and (backward or device != "cpu"):
        raise InputError("--engines supports only inference on CPU: leave out --backward and set --device cpu.")
    if fix_malloc:
        keep_freed_memory()
    machine = describe(device) + ("" if fix_malloc else ", glibc's own malloc thresholds")
    say(f"{machine}\n")
    with TemporaryDirectory() as folder:
        kind = networks.training if backward else networks.inference
        contestants = kind(encoder, decoder, precision, device, peers, compile)
        if engines:
            contestants += networks.engines(encoder, decoder, precision, Path(folder))
        rows: list[dict[str, Any]] = []
        to = Path(output)
        what = f"{encoder} with {decoder}, {'training step' if backward else 'inference'}"
        for measured in _measure(contestants, sorted(sizes), device, repeats, backward):
            rows += measured  # written after each size, as the largest may not fit in memory
            tables.write_csv(to / "benchmark.csv", rows)
            tables.write_json(
                to / "benchmark.json",
                {"what": what, "machine": machine, "malloc": MALLOC if fix_malloc else {}, "rows": rows},
            )
            plots.plot_costs(rows, f"{what}\n{machine}", to / "benchmark.png")
    cells = [
        [f"{value:g}" if isinstance(value, float) and value == value else value for value in row.values()]
        for row in rows
    ]
    say(tables.format_table([*rows[0]], cells))
    say("\n'times' is the speed-up over the first network of the same size, measured in the same run.")
    say(f"Table: {to / 'benchmark.csv'}\nPlot:  {to / 'benchmark.png'}")


def _measure(
    contestants: Sequence[Contestant], sizes: Sequence[int], device: str, repeats: int, backward: bool
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each size."""
    costs: dict[str, float] = {}
    pixels = PIXELS_PER_BATCH * (1 if device == "cpu" else 16)
    counts = {size: max(1, pixels // size**2) for size in sizes}
    turns = sum(repeats + 1 + (count > 1) * (repeats // 2 + 2) for count in counts.values())
    with progress(turns * len(contestants), "benchmark", "run") as bar:
        for size, count in counts.items():
            image = torch.randn(1, 3, size, size, device=device)
            seconds = measures.interleaved([_bound(one, image) for one in contestants], repeats, bar.update)
            batches = seconds
            if count > 1:
                batch = image.expand(count, -1, -1, -1).contiguous()
                runs = [_bound(one, batch) for one in contestants]
                batches = measures.interleaved(runs, repeats // 2 + 1, bar.update)
            rows = []
            for one, time, batch_time in zip(contestants, seconds, batches, strict=True):
                if one.network is not None and one.name not in costs:
                    costs[one.name] = macs(one.network, image) / size**2 / 1e3
                row = {
                    "size": size,
                    "network": one.name,
                    "precision": one.precision,
                    "ms": round(1e3 * time, 1),
                    "times": round(seconds[0] / time, 2),
                    "images/s": round(count / batch_time, 2),
                    "ns/pixel": round(1e9 * time / size**2, 1),
                    "kMAC/pixel": round(costs[one.name], 1) if one.network else UNKNOWN,
                    "bytes/pixel": round(_bytes(one, image, backward) / size**2) if one.network else UNKNOWN,
                }
                rows.append(row)
            yield rows


def _bound(one: Contestant, image: torch.Tensor) -> Any:
    return lambda: one.run(image)


def _bytes(one: Contestant, image: torch.Tensor, backward: bool) -> int:
    """Return the saved activations of a training step or the peak memory of inference, in bytes."""
    assert one.network is not None
    if not backward:
        return measures.peak_bytes(one.run, image)
    with networks.autocast(image.device.type, one.precision):
        return measures.saved_bytes(one.network, image)


def describe(device: str) -> str:
    """Return device and version of torch in one line."""
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__.split('+')[0]}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Restart this program with fixed glibc thresholds, which are only read when a process starts."""
    if sys.platform == "linux" and not set(MALLOC) <= set(os.environ):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **MALLOC})

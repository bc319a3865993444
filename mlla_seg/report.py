"""Results for people: tables on the terminal and as CSV, the training curve and overlays as pictures."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.io import Array


@contextmanager
def renamed_when_done(path: Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` when the block ends well, so that no half-written file is ever found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of equal keys; NaN becomes an empty field."""
    with renamed_when_done(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if _is_nan(value) else value for key, value in row.items()})


def write_json(path: Path, content: Any) -> None:
    """Writes JSON; NaN becomes null."""
    plain = (
        {key: None if _is_nan(value) else value for key, value in content.items()}
        if isinstance(content, dict)
        else content
    )
    with renamed_when_done(path) as temporary:
        temporary.write_text(json.dumps(plain, indent=2) + "\n")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A plain table: first column to the left, numbers to the right, NaN as a dash."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return "-" if math.isnan(value) else f"{value:.4f}"
        return str(value)

    cells = [[cell(value) for value in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            value.ljust(width) if i == 0 else value.rjust(width)
            for i, (value, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def plot_training(metrics_csv: Path, output: Path) -> None:
    """Draws training loss and validation Dice over epochs from the logger's ``metrics.csv``."""
    plt = _pyplot()
    with metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    curves = [
        ("train/loss", "training loss", "tab:blue", axis),
        ("val/dice", "validation Dice", "tab:orange", axis.twinx()),
    ]
    for key, label, colour, side in curves:
        points = [(int(row["epoch"]) + 1, float(row[key])) for row in rows if row.get(key)]
        if points:
            side.plot(*zip(*points, strict=True), color=colour, marker="." if len(points) < 60 else None)
        side.set_ylabel(label, color=colour)
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    curves[1][3].set_ylim(0, 1)
    _save(figure, output)


def plot_overlay(
    image: Array,
    masks: Mapping[str, Array],
    classes: Sequence[Mapping[str, Any]],
    output: Path,
    title: str = "",
    window: Sequence[float] | None = None,
) -> None:
    """Draws an image beside label maps laid over it.

    Args:
        image: ``(C, H, W)`` in raw units; the first channel is shown in grey, or the first three in colour.
        masks: Title to ``(H, W)`` class indices; 255 is left open.
        classes: Names and colours.
        output: A PNG.
        title: Above everything.
        window: Range of values from black to white, by default the 1st to 99th percentile.
    """
    plt = _pyplot()
    picture = np.moveaxis(image[:3] if len(image) >= 3 else image[:1].repeat(3, axis=0), 0, 2).astype(np.float32)
    low, high = window or np.percentile(picture, (1, 99))
    picture = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)
    colours = np.array([entry["colour"] for entry in classes], dtype=np.float32) / 255
    panels = [("image", picture)]
    for name, mask in masks.items():
        shown = (mask > 0) & (mask < len(classes))
        tint = colours[np.where(shown, mask, 0)]
        panels.append((name, np.where(shown[..., None], 0.5 * picture + 0.5 * tint, picture)))
    present = sorted({int(k) for mask in masks.values() for k in np.unique(mask) if 0 < k < len(classes)})
    height = 3.4 * picture.shape[0] / picture.shape[1]
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), min(height, 6) + 0.8), layout="constrained")
    for axis, (name, panel) in zip(np.atleast_1d(axes), panels, strict=True):
        axis.imshow(panel, interpolation="nearest")
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    handles = [
        plt.Line2D([], [], marker="s", linestyle="", color=colours[k], label=classes[k]["name"]) for k in present
    ]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 5), fontsize=8, frameon=False
        )
    figure.suptitle(title, fontsize=10)
    _save(figure, output)


def _save(figure: Any, output: Path) -> None:
    with renamed_when_done(output) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    _pyplot().close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt

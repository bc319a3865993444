"""Plots: training curves, scores per class, confusion matrices, overlays, training samples, benchmarks, studies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.atomic import renamed_when_done
from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.data.formats.picture import Array
from mlla_seg.evaluation.tables import read_csv
from mlla_seg.progress import quiet
from mlla_seg.visible import visible

DARKENED = 0.35
"""Brightness of pixels that have no class."""
LONGEST = 120
"""Most characters of a line of text, so that no name hides the picture."""
OFFSETS = (8, -13, 14)
"""Heights in points at which the farthest outliers of a class are named, so that names of neighbours do not overlap."""


LOSS = "val/loss"
SCORES = (
    ("val/dice", "validation Dice", "tab:orange"),
    ("val/top1", "validation top-1 accuracy", "tab:orange"),
    (LOSS, "validation loss", "tab:orange"),
)
"""Columns of ``metrics.csv``, of which the first that is there is drawn, with label and colour."""


def plot_training(metrics_csv: Path, output: Path) -> None:
    """Plot training loss and the validation score over epochs from the logger's ``metrics.csv``."""
    plt = _pyplot()
    rows = read_csv(metrics_csv)
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    curves = [
        ("train/loss", "training loss", "tab:blue", axis),
        (*next((score for score in SCORES if any(row.get(score[0]) for row in rows)), SCORES[0]), axis.twinx()),
    ]
    for key, label, colour, side in curves:
        points = [(int(row["epoch"]) + 1, float(row[key])) for row in rows if row.get(key)]
        if points:
            side.plot(*zip(*points, strict=True), color=colour, marker="." if len(points) < 60 else None)
        side.set_ylabel(label, color=colour)
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    if curves[1][0] != LOSS:
        curves[1][3].set_ylim(0, 1)
    save_figure(figure, output)


def plot_boxes(
    values: Mapping[str, Sequence[float]], names: Sequence[str], colours: Sequence[Sequence[int]], label: str, to: Any
) -> None:
    """Draw a horizontal box plot with a point per case for each class; outliers are named.

    Args:
        values: Scores of the cases by class; NaN is left out.
        names: Names of the cases.
        colours: ``[red, green, blue]`` per class, 0..255.
        label: Name of the score, with its unit.
        to: A path or an open file for the PNG.
    """
    plt = _pyplot()
    known = [
        [(value, name) for value, name in zip(column, names, strict=True) if not math.isnan(value)]
        for column in values.values()
    ]
    figure, axis = plt.subplots(figsize=(6, 0.9 + 0.36 * len(known)), layout="constrained")
    places = range(len(known), 0, -1)
    columns = [[value for value, _ in column] for column in known]
    axis.boxplot(columns, positions=places, orientation="horizontal", widths=0.55, showfliers=False)
    for place, column, colour in zip(places, columns, colours, strict=True):
        heights = place + np.linspace(-0.2, 0.2, len(column))
        axis.scatter(column, heights, s=12, color=np.array(colour) / 255, edgecolors="black", linewidths=0.3, zorder=3)
    for place, pairs in zip(places, known, strict=True):
        middle = np.median([value for value, _ in pairs]) if pairs else 0
        for (value, name), above in zip(outliers(pairs), OFFSETS, strict=False):
            side = "left" if value < middle else "right"  # towards the box, where the axes do not end
            axis.annotate(plain(name), (value, place), (0, above), textcoords="offset points", fontsize=6, ha=side)
    axis.set_yticks(
        list(places), [f"{plain(name)} ({len(column)})" for name, column in zip(values, columns, strict=True)]
    )
    axis.set_xlabel(label)
    axis.grid(axis="x", alpha=0.3)
    save_figure(figure, to)


def outliers(scores: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return scores with names that lie more than 1.5 interquartile ranges outside the box, the farthest first."""
    if not scores:
        return []
    first, median, third = np.percentile([value for value, _ in scores], (25, 50, 75))
    reach = 1.5 * (third - first)
    beyond = [pair for pair in scores if not first - reach <= pair[0] <= third + reach]
    return sorted(beyond, key=lambda pair: -abs(pair[0] - median))


def plot_confusion(confusion: Array, names: Sequence[str], to: Any) -> None:
    """Draw a confusion matrix, each row in percent of its sum.

    Args:
        confusion: ``(K, K)`` voxel counts, a row per true class, a column per predicted class.
        names: Class names.
        to: A path or an open file for the PNG.
    """
    plt = _pyplot()
    total = confusion.sum(axis=1, keepdims=True)
    percent = np.divide(100.0 * confusion, total, out=np.full(confusion.shape, np.nan), where=total > 0)
    side = 1.6 + 0.42 * max(len(names), 3)
    figure, axis = plt.subplots(figsize=(side + 0.8, side), layout="constrained")
    picture = axis.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for (i, j), value in np.ndenumerate(percent):
        text = "-" if np.isnan(value) else f"{value:.1f}" if 0.05 <= value < 9.95 else f"{value:.0f}"
        axis.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if value > 55 else "black")
    names = list(map(plain, names))
    rows = [name if count else f"{name} (none)" for name, count in zip(names, total[:, 0], strict=True)]
    axis.set_yticks(range(len(names)), rows, fontsize=8)
    axis.set_xticks(range(len(names)), names, fontsize=8, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_ylabel("truth")
    axis.set_xlabel("prediction")
    figure.colorbar(picture, ax=axis, label="% of the true class", shrink=0.8)
    save_figure(figure, to)


def plot_overlay(
    image: Array,
    masks: Mapping[str, Array],
    classes: Sequence[ClassInfo],
    output: Any,
    title: str = "",
    window: Sequence[float] | None = None,
    aspect: float = 1.0,
    background: int | None = 0,
) -> None:
    """Draw an image beside copies of it with overlaid masks.

    Args:
        image: ``(C, H, W)`` in raw units; shown as RGB (first three channels), or in grey if there are fewer.
        masks: Class indices ``(H, W)`` by title; where there is none (255), the image is darkened.
        classes: Names and colours.
        output: A path or an open file for the PNG.
        title: Title of the figure.
        window: Intensity window from black to white; by default the 1st to 99th percentile.
        aspect: Height of a pixel relative to its width.
        background: Class index that is not drawn either, if any.
    """
    plt = _pyplot()
    picture = np.moveaxis(image[:3] if len(image) >= 3 else image[:1].repeat(3, axis=0), 0, 2).astype(np.float32)
    low, high = window or np.percentile(picture, (1, 99))
    picture = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)
    colours = np.array([entry.colour for entry in classes], dtype=np.float32) / 255
    panels = [("image", picture)]
    for name, mask in masks.items():
        known = (mask < len(classes))[..., None]
        shown = known & (mask != background)[..., None]
        tinted = np.where(shown, 0.5 * picture + 0.5 * colours[np.where(shown[..., 0], mask, 0)], picture)
        panels.append((name, np.where(known, tinted, DARKENED * picture)))
    present = sorted({int(k) for mask in masks.values() for k in np.unique(mask) if k < len(classes)} - {background})
    height = 3.4 * aspect * picture.shape[0] / picture.shape[1]
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), min(height, 6) + 0.8), layout="constrained")
    for axis, (name, panel) in zip(np.atleast_1d(axes), panels, strict=True):
        axis.imshow(panel, interpolation="nearest", aspect=aspect)
        axis.set_title(plain(name), fontsize=10)
        axis.axis("off")
    handles = [_square(classes[k]) for k in present]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 5), fontsize=8, frameon=False
        )
    figure.suptitle(plain(title), fontsize=10)
    save_figure(figure, output)


def plot_samples(
    samples: Sequence[Mapping[str, Any]],
    shown: Sequence[int],
    classes: Sequence[ClassInfo],
    background: int | None,
    output: Path,
    title: str,
) -> None:
    """Draw a grid of training samples with overlaid masks; ignored pixels are darkened.

    Args:
        samples: ``{"image": (C, H, W) normalised, "mask": (H, W), "name": str}``.
        shown: Channels drawn as red, green and blue.
        classes: Names and colours.
        background: Class index that is not drawn, if any.
        output: PNG file to write.
        title: Title of the figure.
    """
    plt = _pyplot()
    columns = math.ceil(math.sqrt(len(samples)))
    rows = math.ceil(len(samples) / columns)
    size = (2.6 * columns, 2.8 * rows + 1)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    colours = np.array([entry.colour for entry in classes], dtype=np.float32) / 255
    present: set[int] = set()
    for axis in axes.flat:
        axis.axis("off")
    for axis, sample in zip(axes.flat, samples, strict=False):
        image, mask = np.asarray(sample["image"]), np.asarray(sample["mask"])
        drawn = image[[*shown]]
        low, high = np.percentile(drawn, (1, 99))
        picture = np.moveaxis(np.clip((drawn - low) / max(high - low, 1e-6), 0, 1), 0, 2)
        known = mask < len(classes)
        tinted = known & (mask != background)
        picture = np.where(tinted[..., None], 0.6 * picture + 0.4 * colours[np.where(known, mask, 0)], picture)
        axis.imshow(np.where(known[..., None], picture, DARKENED * picture).clip(0, 1), interpolation="nearest")
        axis.set_title(f"{plain(sample['name'])}\nvalues {image.min():.1f} to {image.max():.1f}", fontsize=7)
        present |= set(np.unique(mask[tinted]).tolist())
    handles = [_square(classes[k]) for k in sorted(present)]
    figure.suptitle(plain(title), fontsize=10)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    save_figure(figure, output)


def plot_costs(rows: Sequence[Mapping[str, Any]], title: str, output: Path) -> None:
    """Plot nanoseconds per pixel over image size, a curve per network and a panel per precision."""
    plt = _pyplot()
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    figure, axes = plt.subplots(
        1, len(precisions), figsize=(5 * len(precisions) + 2, 4.5), layout="constrained", sharey=True, squeeze=False
    )
    names = list(dict.fromkeys(row["network"] for row in rows))
    for axis, precision in zip(axes[0], precisions, strict=True):
        for k, name in enumerate(names):
            own = [row for row in rows if (row["network"], row["precision"]) == (name, precision)]
            if own:
                style = {"linewidth": 2.5} if name.startswith("ours") else {}
                points = [row["size"] for row in own], [row["ns/pixel"] for row in own]
                axis.plot(*points, marker="o", color=f"C{k}", label=plain(name), **style)
        sizes = sorted({row["size"] for row in rows})
        axis.set(xscale="log", xlabel="side of the image in pixels", title=precision)
        axis.set_xticks(sizes, list(map(str, sizes)))
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("ns per pixel")
    handles = {label: line for axis in axes[0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper")
    figure.suptitle(plain(title), fontsize=10)
    save_figure(figure, output)


def plot_forest(rows: Sequence[Mapping[str, Any]], label: str, title: str, to: Any) -> None:
    """Draw differences to a reference with their intervals, a row each from top to bottom.

    Filled squares are differences that are shown, hollow ones are not; what was not sampled enough to tell is grey.

    Args:
        rows: ``{"name": str, "value", "low", "high": float, "runs": differences of single runs, drawn as dots,
            "shown", "sampled": bool}``.
        label: Label of the differences, with their reference.
        title: Title of the figure.
        to: A path or an open file for the PNG.
    """
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(7.5, 1.5 + 0.45 * len(rows)), layout="constrained")
    places = range(len(rows), 0, -1)
    for place, row in zip(places, rows, strict=True):
        colour = "tab:blue" if row["sampled"] else "grey"
        axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
        face = colour if row["shown"] else "white"
        axis.plot(row["value"], place, "s", color=colour, markerfacecolor=face, markersize=8, zorder=3)
        axis.scatter(row["runs"], [place - 0.25] * len(row["runs"]), s=10, color="black", alpha=0.6, linewidths=0)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(list(places), [plain(row["name"]) for row in rows])
    axis.set_ylim(0.4, len(rows) + 0.6)
    axis.grid(axis="x", alpha=0.3)
    axis.set_xlabel(plain(label))
    figure.suptitle(plain(title), fontsize=8)  # centred on the figure: the axes may be narrow
    save_figure(figure, to)


def plain(text: str) -> str:
    """Return a text that matplotlib draws as it is: without formulas between ``$``, and not too long."""
    shown = visible(text, keep="\n")
    lines = [line if len(line) <= LONGEST else f"{line[:LONGEST]}..." for line in shown.split("\n")]
    return ("" if shown[:1] != "_" else " ") + "\n".join(lines).replace("$", r"\$")  # legends leave out names with _


def new_figure(
    rows: int, columns: int, size: tuple[float, float], heights: Sequence[float] | None = None
) -> tuple[Any, Any]:
    """Return a figure of ``size`` inches and its axes ``(rows, columns)``, with relative ``heights`` of rows."""
    how = {"layout": "constrained", "squeeze": False, "height_ratios": heights}
    return _pyplot().subplots(rows, columns, figsize=size, **how)


def save_figure(figure: Any, output: Any) -> None:
    """Write a figure as PNG to a path, atomically, or to an open file, and close it."""
    with quiet():  # about characters that the font lacks
        if isinstance(output, Path):
            with renamed_when_done(output) as temporary:
                figure.savefig(temporary, dpi=110, format="png")
        else:
            figure.savefig(output, dpi=110, format="png")
    _pyplot().close(figure)


def _square(entry: ClassInfo) -> Any:
    """Return the coloured square of a class in a legend."""
    colour = np.array(entry.colour) / 255
    return _pyplot().Line2D([], [], marker="s", linestyle="", color=colour, label=plain(entry.name))


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt

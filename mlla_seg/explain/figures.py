"""Figures of attention and receptive fields over the image that a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.evaluation.plots import new_figure, plain, save_figure


@dataclass(frozen=True)
class Panel:
    """A map drawn over the image.

    Args:
        title: Title of the panel.
        values: ``(H, W)`` of the size of the image; drawn in two colours around zero if any is negative.
    """

    title: str
    values: Array


def in_rgb(image: Array) -> Array:
    """Return an image ``(C, H, W)`` as RGB ``(H, W, 3)`` in 0..1: its first three channels, or grey if fewer."""
    shown = image[:3] if len(image) >= 3 else image[[0] * 3]
    low, high = np.percentile(shown, (1, 99))
    return np.moveaxis(np.clip((shown - low) / max(high - low, 1e-6), 0, 1), 0, 2)


def draw_panels(image: Array, row: int, column: int, panels: Sequence[Panel], title: str, output: Any) -> None:
    """Draw an image with its chosen pixel marked, and maps over it.

    Args:
        image: ``(C, H, W)``.
        row: Row of the chosen pixel.
        column: Column of the chosen pixel.
        panels: Maps.
        title: Title of the figure.
        output: A path or an open file for the PNG.
    """
    columns = min(4, len(panels) + 1)
    rows = -(-(len(panels) + 1) // columns)
    picture = in_rgb(image)
    height = 3.2 * picture.shape[0] / picture.shape[1]
    figure, axes = new_figure(rows, columns, (3.4 * columns, rows * (min(height, 6) + 0.7) + 0.5))
    for axis in axes.flat:
        axis.axis("off")
    axes.flat[0].imshow(picture)
    axes.flat[0].set_title("what the network sees", fontsize=9)
    for axis, panel in zip(axes.flat[1:], panels, strict=False):
        axis.imshow(picture.mean(axis=2), cmap="gray", vmin=0, vmax=1)
        top = float(np.abs(panel.values).max()) or 1.0
        signed = bool((panel.values < 0).any())
        colours: dict[str, Any] = dict(cmap="RdBu_r", vmin=-top, vmax=top) if signed else dict(cmap="inferno", vmin=0)
        # Opaque where the map is strong, so that the image shows elsewhere.
        axis.imshow(panel.values, alpha=np.clip(np.abs(panel.values) / top, 0.35, 0.95), **colours)
        axis.set_title(plain(panel.title), fontsize=9)
    for axis in axes.flat[: len(panels) + 1]:
        axis.plot(column, row, marker="+", color="cyan", markersize=11, markeredgewidth=2)
    figure.suptitle(plain(title), fontsize=10)
    save_figure(figure, output)

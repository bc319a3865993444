"""The part of an image that a network sees around one pixel, prepared exactly as for prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlla_seg.data.formats.picture import Array
from mlla_seg.data.framing import margin
from mlla_seg.data.slices import View, nearest_slice, slices_at, standardised
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.models.segmenter import Segmenter


@dataclass(frozen=True)
class ImagePart:
    """Part of a slice as the network sees it.

    Args:
        image: Raw values on the network's grid, ``(1, C, h, w)``, as the network takes them.
        row: Row of the chosen pixel in it.
        column: Column of the chosen pixel in it.
    """

    image: Tensor
    row: int
    column: int


def part_around(
    engine: TorchEngine, image: Array, view: View, spacing_mm: Any, position: int, row: int, column: int
) -> ImagePart:
    """Return what the network sees around a pixel: its slice, resampled, or a window of the training patch's size.

    Args:
        engine: Engine of the network.
        image: Case ``(S, C, H, W)`` in raw units.
        view: How the network sees cases.
        spacing_mm: Spacing of slices, rows and columns, if known.
        position: Slice of the case.
        row: Row of the pixel in the case.
        column: Column of the pixel in the case.
    """
    volume = engine.volume(image)
    stored = (len(image), *image.shape[-2:])
    slices, *size = view.grid(stored, spacing_mm)
    seen = nearest_slice(position, stored[0], slices)
    moments = view.moments(image)
    pixels = standardised(engine.load(slices_at(volume, [seen], view.context, slices)), moments, view.context)
    pixels = engine.resize_images(engine.fill_gaps(pixels), (size[0], size[1]))
    place = [int((at + 0.5) * grid / own) for at, own, grid in zip((row, column), stored[1:], size, strict=True)]
    if view.patch_size is not None:
        for axis, (grid, wanted) in enumerate(zip(size, view.patch_size, strict=True)):
            if grid > wanted:
                start = int(np.clip(place[axis] - wanted // 2, 0, grid - wanted))
                pixels = pixels.narrow(axis - 2, start, wanted)
                place[axis] -= start
    return ImagePart(pixels, *place)


def chosen_pixel(labels: Array, background: int | None) -> tuple[int, int, int]:
    """Return slice, row and column of a pixel of interest: amid the foreground of the slice that has most of it.

    Args:
        labels: Class indices ``(S, H, W)``.
        background: Class index of the background, if any.

    Returns:
        The foreground pixel nearest to the foreground's centre; without foreground, the centre of the middle slice.
    """
    foreground = labels != background
    counts = foreground.reshape(len(labels), -1).sum(axis=1)
    position = int(counts.argmax())
    if not counts[position]:
        return len(labels) // 2, labels.shape[1] // 2, labels.shape[2] // 2
    rows, columns = np.nonzero(foreground[position])
    nearest = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
    return position, int(rows[nearest]), int(columns[nearest])


def on_map(network: Segmenter, part: ImagePart, rows: int) -> tuple[int, int, int]:
    """Return row, column and stride of the chosen pixel on a feature map with ``rows`` rows of the padded part."""
    height, width = part.image.shape[-2:]
    stride = -(-max(height, network.frame[0]) // network.strides[0]) * network.strides[0] // rows
    above, left = margin(height, network.frame[0]), margin(width, network.frame[1])
    return (part.row + above) // stride, (part.column + left) // stride, stride


def normalised(network: Segmenter, part: ImagePart) -> Tensor:
    """Return the part as the network normalises it."""
    with torch.no_grad():
        return network.normalise(part.image.to(next(network.parameters()).device))

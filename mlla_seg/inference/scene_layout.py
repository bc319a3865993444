"""How a scene is divided: stripes of columns, and in each of them row bands from top to bottom.

It does not depend on the number of processes, so any number of them can continue what others have begun.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.slices import seen_by_network
from mlla_seg.errors import InputError
from mlla_seg.inference.sliding_window import bands_along

SUMS = 2**28
"""Maximum bytes for the pixels and summed logits of a stripe; determines its width."""
WINDOW = (512, 512)
"""Height and width of the sliding window if neither the user nor the training sets them."""


@dataclass(frozen=True)
class SceneLayout:
    """Division of a scene.

    Args:
        shape: Height and width.
        window: Height and width of the sliding window.
        size: The same, as the network sees it.
        stripes: First and end column of each stripe.
        bands: First and end row of each band, in which the logits of some windows are finished.
    """

    shape: tuple[int, int]
    window: tuple[int, int]
    size: tuple[int, int]
    stripes: list[tuple[int, int]]
    bands: list[tuple[int, int]]


def layout_of(
    spec: DataSpec, shape: tuple[int, int], channels: int, asked: int | None, overlap: float, stripe: int | None
) -> SceneLayout:
    """Divide a scene.

    Args:
        spec: Description of the segmenter's data.
        shape: Height and width.
        channels: Number of bands of the raster.
        asked: Side of the sliding window; defaults to the training patch size.
        overlap: Overlap of neighbouring windows, as a fraction of their size.
        stripe: Width of the stripes; defaults to what fits into ``SUMS`` bytes.

    Raises:
        InputError: The window is smaller than the patch size.
    """
    grid = spec.view.grid((1, *shape))[1:]
    side = _window(asked, spec.patch_size)
    if side is None:  # trained on whole images, or without a known patch size
        side = grid if spec.resize is not None else WINDOW
    window, size = seen_by_network(shape, grid, side)
    stripes = _stripes(shape[1], stripe or _widest(window[0], channels, spec))
    return SceneLayout(shape, window, size, stripes, bands_along(shape[0], window[0], overlap))


def _window(asked: int | None, frame: Sequence[int] | None) -> Sequence[int] | None:
    """Return height and width of the sliding window: as requested, or the training patch size.

    Raises:
        InputError: The window is smaller than the patch size, to which the network would pad it.
    """
    if asked is None:
        return frame
    if frame is not None and asked < max(frame):
        height, width = frame
        raise InputError(
            f"--window {asked}: is smaller than the training patches, {height} x {width}, to which the network would "
            f"pad every window. Use {max(frame)} or more; to save memory, lower --batch_size."
        )
    return asked, asked


def _widest(height: int, channels: int, spec: DataSpec) -> int:
    """Return the width of a stripe whose pixels and summed logits fit into ``SUMS`` bytes."""
    return max(height, SUMS // (4 * height * (channels + len(spec.output_names))))


def _stripes(width: int, widest: int) -> list[tuple[int, int]]:
    """Return the first and end columns of stripes of about equal width."""
    count = math.ceil(width / widest)
    edges = [round(k * width / count) for k in range(count + 1)]
    return list(pairwise(edges))

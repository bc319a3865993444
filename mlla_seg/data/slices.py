"""Slices as a network sees them, in training, prediction and the runtime: resampled and with their neighbours.

This module does not need torch, so that the runtime of exported networks works without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Volume = TypeVar("Volume", np.ndarray[Any, Any], "Tensor")
Grid = tuple[int, int, int]
"""Slices, height, width."""
AXES = ("slices", "rows", "columns")
"""Axes of volumes; images have the last two."""
ZSCORE, RESCALE = "zscore", "rescale_to_0_1"
"""Normalisation of a channel over a whole case: by its mean and standard deviation, or from its minimum to maximum."""
PART = 2**22
"""Pixels of an image whose moments are computed at once."""


@dataclass(frozen=True)
class View:
    """How a network sees cases.

    Args:
        spacing_mm: Spacing of slices, rows and columns to which volumes are resampled, None for an axis to keep.
        resize: ``(height, width)``, or a factor, to which slices are resized after resampling.
        patch_size: ``(height, width)`` of the training samples; larger slices are processed with a sliding window of
            this size. Networks of three axes have ``(slices, height, width)``.
        context: Neighbouring slices on each side, as additional channels (2.5-D).
        per_case: Whether cases are normalised as a whole, see :func:`case_moments`.
    """

    spacing_mm: Sequence[float | None] | None = None
    resize: Sequence[int] | float | None = None
    patch_size: Sequence[int] | None = None
    context: int = 0
    per_case: bool | Sequence[str | None] = False

    @property
    def axes(self) -> int:
        """Number of axes of the network's input: 2 for slices, 3 for volumes."""
        return len(self.patch_size or (0, 0))

    def moments(self, case: Any) -> tuple[Any, Any] | None:
        """Return the moments of a case, or None if cases are not normalised as a whole; see :func:`case_moments`."""
        return case_moments(case, self.per_case) if self.per_case else None

    def grid(self, shape: Sequence[int], spacing_mm: Sequence[float] | None = None) -> Grid:
        """Return the slices, height and width at which the network sees a case.

        Args:
            shape: Slices, height and width as stored.
            spacing_mm: Spacing of slices, rows and columns. Without it nothing is resampled, nor is an axis of size 1.
        """
        if self.spacing_mm and spacing_mm:
            shape = [
                max(1, round(n * step / wanted)) if wanted and n > 1 else n
                for n, step, wanted in zip(shape, spacing_mm, self.spacing_mm, strict=True)
            ]
        slices, height, width = shape
        if isinstance(self.resize, (int, float)):
            height, width = round(height * self.resize), round(width * self.resize)
        elif self.resize is not None:
            height, width = self.resize
        return slices, max(1, height), max(1, width)


def slices_at(volume: Volume, positions: Sequence[int], context: int = 0, slices: int | None = None) -> Volume:
    """Return slices of a volume with their neighbours as additional channels (2.5-D); the outer slices are replicated.

    Args:
        volume: ``(S, C, H, W)``, an array or a tensor.
        positions: The N requested slices, as indices among ``slices``.
        context: Neighbours k on each side.
        slices: Number of slices to which the volume is resampled with linear interpolation; by default its own.

    Returns:
        ``(N, (2 k + 1) C, H, W)``: all channels of the slice k before, ..., of the slice, ..., of the slice k after.
    """
    count = slices or volume.shape[0]
    index = np.clip(np.asarray(positions)[:, None] + np.arange(-context, context + 1), 0, count - 1)
    below, above, weight = between(index, count, volume.shape[0])
    stacked = volume[below]  # (N, 2 k + 1, C, H, W)
    if weight.any():
        weight = weight[..., None, None, None].astype(np.float32)
        if not isinstance(volume, np.ndarray):
            import torch

            weight = torch.from_numpy(weight).to(volume.device)
        stacked = stacked * (1 - weight) + volume[above] * weight
    return stacked.reshape(len(index), -1, *volume.shape[2:])


def case_moments(case: Any, per_case: bool | Sequence[str | None] = True) -> tuple[Any, Any]:
    """Return what to subtract from each channel of a case and what to divide it by, ``(C,)`` float32 each.

    As nnU-Net standardises MR, whose units are comparable within a scan but not between scans.

    Args:
        case: ``(S, C, H, W)``, or images ``(C, h, w)`` that make it up; NaN where there is no data.
        per_case: True for mean and standard deviation, or ``zscore``, ``rescale_to_0_1`` or None for each channel.
    """
    count, mean, squares, low, high = (np.array(start) for start in (0.0, 0.0, 0.0, np.inf, -np.inf))
    for image in case:
        rows = max(1, PART // image.shape[-1])
        for top in range(0, image.shape[-2], rows):
            values = np.asarray(image[:, top : top + rows], np.float64).reshape(len(image), -1)
            present = ~np.isnan(values)
            own_count = present.sum(axis=1)
            own_mean = np.where(present, values, 0).sum(axis=1) / np.maximum(own_count, 1)
            own_squares = (np.where(present, values - own_mean[:, None], 0) ** 2).sum(axis=1)
            total = np.maximum(count + own_count, 1)
            squares = squares + own_squares + (own_mean - mean) ** 2 * count * own_count / total
            mean = mean + (own_mean - mean) * own_count / total
            count = count + own_count
            low = np.minimum(low, np.where(present, values, np.inf).min(axis=1))
            high = np.maximum(high, np.where(present, values, -np.inf).max(axis=1))
    std = np.maximum(np.sqrt(squares / np.maximum(count, 1)), 1e-6)
    schemes = [ZSCORE] * len(mean) if isinstance(per_case, bool) else per_case
    known = {ZSCORE: (mean, std), RESCALE: (low, np.maximum(high - low, 1e-8))}
    chosen = [[known[name][k][c] if name else k for c, name in enumerate(schemes)] for k in (0, 1)]
    return np.array(chosen[0], np.float32), np.array(chosen[1], np.float32)


def standardised(slices: Volume, moments: tuple[Any, Any] | None, context: int = 0) -> Volume:
    """Standardise slices ``(N, (2 k + 1) C, H, W)`` by the moments of their case, if there are any."""
    if moments is None:
        return slices
    mean, std = (np.tile(value, 2 * context + 1)[:, None, None] for value in moments)
    if isinstance(slices, np.ndarray):
        return (slices - mean) / std
    import torch

    return (slices - torch.from_numpy(mean).to(slices.device)) / torch.from_numpy(std).to(slices.device)


def through_slices(run: Callable[[list[int]], Volume], stored: int, slices: int, batch_size: int) -> Iterator[Volume]:
    """Yield logits ``(n, K, H, W)`` of the slices of a case in order, interpolated from those that the network sees.

    Args:
        run: Returns logits ``(n, K, H, W)`` of some of the network's slices.
        stored: Number of slices of the case.
        slices: Number of slices that the network sees; logits are interpolated linearly between them.
        batch_size: Slices per forward pass.
    """
    if slices == stored:
        for start in range(0, stored, batch_size):
            yield run(list(range(start, min(start + batch_size, stored))))
        return
    # Slices of the case lie between those that the network sees; both are traversed in ascending order.
    seen: dict[int, Volume] = {}
    for position in range(stored):
        below, above, weight = (value.item() for value in between(position, stored, slices))
        while above not in seen:
            seen = {k: logits for k, logits in seen.items() if k >= below}
            block = list(range(max(seen, default=below - 1) + 1, slices))[:batch_size]
            seen |= dict(zip(block, run(block), strict=True))
        yield (seen[below] + (seen[above] - seen[below]) * weight)[None]


def between(index: Any, count: int, stored: int) -> tuple[Any, Any, Any]:
    """Locate slices of a volume resampled to ``count`` slices among its ``stored`` ones.

    Returns:
        The stored slice before each, the one after, and the weight of the latter in 0..1. The outer faces of both
        volumes coincide.
    """
    place = np.clip((np.asarray(index) + 0.5) * stored / count - 0.5, 0, stored - 1)
    below = np.floor(place).astype(np.int64)
    return below, np.minimum(below + 1, stored - 1), place - below


def nearest_slice(position: int, count: int, stored: int) -> int:
    """Return the stored slice that contains the centre of a slice of a volume resampled to ``count`` slices."""
    return int((position + 0.5) * stored / count)


def seen_by_network(
    shape: Sequence[int], grid: Sequence[int], window: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size of the part of an image that a window covers, and the size at which the network sees it.

    Args:
        shape: Height and width of the image.
        grid: Height and width to which the image is resized for the network.
        window: Height and width of windows on that grid.
    """
    parts = [min(n, max(1, round(w * n / g))) for n, g, w in zip(shape, grid, window, strict=True)]
    sizes = [g if part == n else w for part, n, g, w in zip(parts, shape, grid, window, strict=True)]
    return (parts[0], parts[1]), (sizes[0], sizes[1])

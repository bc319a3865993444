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


@dataclass(frozen=True)
class View:
    """How a network sees cases.

    Args:
        spacing_mm: Spacing of slices, rows and columns to which volumes are resampled, None for an axis to keep.
        resize: ``(height, width)``, or a factor, to which slices are resized after resampling.
        patch_size: ``(height, width)`` of the training samples; larger slices are processed with a sliding window of
            this size.
        context: Neighbouring slices on each side, as additional channels (2.5-D).
        per_case: Whether cases are standardised as a whole, by :func:`case_moments`.
    """

    spacing_mm: Sequence[float | None] | None = None
    resize: Sequence[int] | float | None = None
    patch_size: Sequence[int] | None = None
    context: int = 0
    per_case: bool = False

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


def case_moments(volume: Any) -> tuple[Any, Any]:
    """Return mean and standard deviation of each channel of ``(S, C, H, W)`` over all data, ``(C,)`` float32 each.

    As nnU-Net standardises MR, whose units are comparable within a scan but not between scans.
    """
    channels = volume.shape[1]
    count, total, squares = np.zeros(channels), np.zeros(channels), np.zeros(channels)
    for image in volume:
        values = np.asarray(image, np.float64).reshape(channels, -1)
        count += (~np.isnan(values)).sum(axis=1)
        total += np.nansum(values, axis=1)
    mean = total / np.maximum(count, 1)
    for image in volume:  # second pass: a difference of squares would lose precision for large means
        values = np.asarray(image, np.float64).reshape(channels, -1)
        squares += np.nansum((values - mean[:, None]) ** 2, axis=1)
    std = np.sqrt(squares / np.maximum(count, 1))
    return mean.astype(np.float32), np.maximum(std, 1e-6).astype(np.float32)


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

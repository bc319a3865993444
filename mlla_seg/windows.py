"""The sliding window over an image of any size, a band of rows at a time: memory does not grow with its height.

Windows lie on a grid that the image alone decides. Their logits are summed with weights, row of windows by row of
windows; what no later row touches is handed out and forgotten. Every window is seen once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.resampling import fill_gaps, resize_images
from mlla_seg.tiling import blend_weights, row_bands, window_starts

Array = npt.NDArray[np.float32]
Read = Callable[[int, int, int, int], Tensor]
"""Gives ``(C, height, width)`` float32 for top, left, height and width, NaN where there is no data."""


@torch.inference_mode()
def window_logits(
    network: nn.Module,
    read: Read,
    shape: tuple[int, int],
    window: tuple[int, int],
    *,
    device: torch.device | str = "cpu",
    size: tuple[int, int] | None = None,
    overlap: float = 0.5,
    blend: str = "gaussian",
    batch_size: int = 4,
    columns: tuple[int, int] | None = None,
    first: int = 0,
) -> Iterator[tuple[int, Tensor]]:
    """Blended logits of an image, from above: the first row of each band, and ``(K, rows, columns)`` float32.

    Args:
        network: Maps ``(B, C, h, w)`` to ``(B, K, h, w)``.
        read: Reads a part of the image; windows without any data are not shown to the network.
        shape: Height and width of the whole image.
        window: Height and width of the windows, no larger than the image.
        device: Where the network is.
        size: Height and width at which the network sees a window, by default its own.
        overlap: Of neighbouring windows, as a fraction of their size.
        blend: A name in ``BLENDS``.
        batch_size: Windows that go through the network at once.
        columns: First and end column that are wanted, by default all.
        first: Band (see :func:`row_bands`) to begin with; the bands are the same as without.
    """
    left, right = columns or (0, shape[1])
    starts = [c for c in window_starts(shape[1], window[1], overlap) if c < right and c + window[1] > left]
    weights = torch.from_numpy(blend_weights(window, blend)).to(device)
    bands = row_bands(shape[0], window[0], overlap)
    total = torch.zeros(())
    weight = torch.zeros(window[0], right - left, device=device)
    for k, (top, end) in enumerate(bands):
        if top + window[0] <= bands[first][0]:
            continue
        around = read(top, starts[0], window[0], starts[-1] + window[1] - starts[0])
        pieces = ((c, around[:, :, c - starts[0] :][:, :, : window[1]]) for c in starts)
        # The first window is shown even without data: it says how many classes there are.
        seen = [(c, piece) for c, piece in pieces if total.ndim == 0 or not piece.isnan().any(dim=0).all()]
        for i in range(0, len(seen), batch_size):
            batch = seen[i : i + batch_size]
            images = torch.stack([fill_gaps(piece) for _, piece in batch]).to(device, torch.float32)
            logits = _seen_at(network, images, size)
            if total.ndim == 0:
                total = torch.zeros(logits.shape[1], *weight.shape, device=device)
            for (start, _), own in zip(batch, logits, strict=True):
                there = slice(max(start, left) - left, min(start + window[1], right) - left)
                here = slice(max(left - start, 0), min(right - start, window[1]))
                total[:, :, there] += own[:, :, here] * weights[:, here]
                weight[:, there] += weights[:, here]
        done = end - top
        if k >= first:
            yield top, total[:, :done] / weight[:done]
        for sums in (total, weight):
            sums[..., : window[0] - done, :] = sums[..., done:, :].clone()
            sums[..., window[0] - done :, :] = 0


def _seen_at(network: nn.Module, images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Logits of windows, float32, each brought to ``size`` for the network and back."""
    logits: Tensor = network(images if size is None else resize_images(images, size)).float()
    if logits.shape[-2:] != images.shape[-2:]:
        logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
    return logits


def array_windows(network: nn.Module, device: torch.device | str) -> Callable[..., Iterator[tuple[int, Array]]]:
    """:func:`window_logits` of a network for arrays: ``read`` gives arrays, and so do the bands."""

    def by_windows(read: Callable[..., Array], *where: Any, **how: Any) -> Iterator[tuple[int, Array]]:
        bands = window_logits(network, lambda *part: torch.from_numpy(read(*part)), *where, device=device, **how)
        return ((top, logits.cpu().numpy()) for top, logits in bands)

    return by_windows

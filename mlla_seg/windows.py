"""The sliding window over an image of any size, a band of rows at a time: memory does not grow with its height.

Windows lie on a grid that the image alone decides. Their logits are summed with weights, row of windows by row of
windows; what no later row touches is handed out and forgotten. Every window is seen once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.errors import lookup
from mlla_seg.slices import fill_gaps, resize_images

Read = Callable[[int, int, int, int], Tensor]
"""Gives ``(C, height, width)`` float32 for top, left, height and width, NaN where there is no data."""


def _gaussian(size: int) -> Tensor:
    """A Gaussian whose deviation is an eighth of the window, as nnU-Net and MONAI have it."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.exp(-0.5 * (place / (size / 8)) ** 2)


def _cosine(size: int) -> Tensor:
    """Half a wave of a sine (Hann's window, whose neighbours at half overlap add up to a constant)."""
    place = torch.arange(size, dtype=torch.float64) + 0.5
    return torch.sin(torch.pi * place / size) ** 2


BLENDS: dict[str, Callable[[int], Tensor]] = {"gaussian": _gaussian, "cosine": _cosine}
"""Weights of a window's logits along one axis, by name."""


def blend_weights(window: Sequence[int], blend: str = "gaussian") -> Tensor:
    """Weights ``(height, width)`` float32 of a window's logits, from 0.001, as MONAI has them, to at most 1."""
    rows, columns = (lookup(BLENDS, blend, "blend")(size) for size in window)
    return (rows[:, None] * columns).clamp(min=1e-3).float()


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along an axis, so that they cover it; the last one is moved back to end with it."""
    step = max(1, int(window * (1 - overlap)))
    return sorted({min(start, size - window) for start in range(0, max(size - window, 0) + step, step)})


def row_bands(height: int, window: int, overlap: float) -> list[tuple[int, int]]:
    """First and end row of each band that :func:`window_logits` gives."""
    starts = window_starts(height, window, overlap)
    return list(zip(starts, [*starts[1:], height], strict=True))


def seen_by_network(
    shape: Sequence[int], grid: Sequence[int], window: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What part of an image a window is, and the size at which the network sees it.

    Args:
        shape: Height and width of the image.
        grid: Height and width to which the image is brought for the network.
        window: Height and width of windows on that grid.
    """
    parts = [min(n, max(1, round(w * n / g))) for n, g, w in zip(shape, grid, window, strict=True)]
    sizes = [max(1, round(part * g / n)) for part, n, g in zip(parts, shape, grid, strict=True)]
    return (parts[0], parts[1]), (sizes[0], sizes[1])


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
    weights = blend_weights(window, blend).to(device)
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

"""From networks and slices to a label map: the one path that validation, test and prediction use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data.resampling import fill_gaps, resize_images
from mlla_seg.data.slices import Grid, case_moments, seen_by_network, slices_at, standardised, through_slices
from mlla_seg.finite import require_finite_logits
from mlla_seg.inference.windows import window_logits

OVERLAP = 0.5
"""Overlap of neighbouring windows, as a fraction of their size."""


def labels_of(logits: Tensor, dim: int) -> Tensor:
    """Class indices, uint8, of the largest logits along ``dim``; ``argmax`` takes five times as long on processors.

    Raises:
        InputError: A logit is NaN or infinite.
    """
    largest, indices = logits.max(dim)
    require_finite_logits(largest)
    return indices.to(torch.uint8)


def predict_logits(
    network: nn.Module,
    images: Tensor,
    size: tuple[int, int] | None = None,
    window: Sequence[int] | None = None,
    batch_size: int = 16,
) -> Tensor:
    """Logits ``(B, K, H, W)`` for images ``(B, C, H, W)`` of any size.

    Args:
        network: Maps ``(B, C, h, w)`` to ``(B, K, h, w)``.
        images: In raw units, NaN where there is no data.
        size: ``(height, width)`` at which the network sees whole images, by default their own; logits are brought back.
        window: ``(height, width)`` above which images are taken by overlapping windows, blended by a Gaussian.
        batch_size: Windows that go through the network at once.
    """
    original = images.shape[-2:]
    if size is not None:
        images = resize_images(fill_gaps(images), size)
    if window is not None and any(n > w for n, w in zip(images.shape[-2:], window, strict=True)):
        logits = torch.stack([_by_windows(network, image, window, batch_size) for image in images])
    else:
        logits = network(fill_gaps(images))
    if logits.shape[-2:] != original:
        logits = F.interpolate(logits.float(), original, mode="bilinear", align_corners=False)
    return logits


def _by_windows(network: nn.Module, image: Tensor, window: Sequence[int], batch_size: int) -> Tensor:
    """Logits ``(K, H, W)`` of an image ``(C, H, W)``."""
    height, width = image.shape[-2:]
    seen = (min(window[0], height), min(window[1], width))
    bands = window_logits(
        network,
        lambda top, left, rows, columns: image[:, top : top + rows, left : left + columns],
        (height, width),
        seen,
        device=image.device,
        overlap=OVERLAP,
        batch_size=batch_size,
    )
    return torch.cat([logits for _, logits in bands], dim=1)


def case_logits(
    network: nn.Module,
    image: Tensor,
    device: torch.device | str,
    grid: Grid | None = None,
    window: Sequence[int] | None = None,
    context: int = 0,
    batch_size: int = 16,
    per_case: bool = False,
) -> Iterator[Tensor]:
    """Logits ``(n, K, H, W)`` of the slices of a case ``(S, C, H, W)``, in order and a few at a time.

    Slices, each with ``context`` neighbours on both sides as further channels, go through the network ``batch_size`` at
    a time and are forgotten, so memory is bounded by the batch and not by the volume.

    Args:
        network: Maps ``(B, (2 context + 1) C, h, w)`` to ``(B, K, h, w)``.
        image: In raw units, on the CPU.
        device: Where the network is.
        grid: Slices, height and width at which the network sees the case, by default its own; logits are brought back
            to the case's grid, linearly.
        window: See :func:`predict_logits`.
        context: Neighbours on each side, on the network's grid.
        batch_size: Slices that go through the network at once.
        per_case: Standardise each channel by the mean and standard deviation of the whole case first.
    """
    stored = len(image)
    slices, *size = grid or (stored, *image.shape[-2:])
    moments = case_moments(image) if per_case else None

    @torch.inference_mode()
    def run(positions: list[int]) -> Tensor:
        chunk = slices_at(image, positions, context, slices).to(device, torch.float32)
        chunk = standardised(chunk, moments, context)
        return predict_logits(network, chunk, (size[0], size[1]), window, batch_size)

    return through_slices(run, stored, slices, batch_size)


def predict_case(
    network: nn.Module,
    image: Tensor,
    device: torch.device | str,
    grid: Grid | None = None,
    window: Sequence[int] | None = None,
    context: int = 0,
    batch_size: int = 16,
    per_case: bool = False,
) -> Tensor:
    """Label map ``(S, H, W)`` uint8, on the CPU, of a case ``(S, C, H, W)``; arguments: see :func:`case_logits`."""
    if len(image) > 1 or window is None or per_case:
        blocks = case_logits(network, image, device, grid, window, context, batch_size, per_case)
        return torch.cat([labels_of(logits, dim=1).cpu() for logits in blocks])
    # A scene: its labels need far less memory than its logits.
    shape = (image.shape[-2], image.shape[-1])
    seen, size = seen_by_network(shape, grid[1:] if grid else shape, window)
    chunk = slices_at(image, [0], context)[0]
    bands = window_logits(
        network,
        lambda top, left, rows, columns: chunk[:, top : top + rows, left : left + columns].float(),
        shape,
        seen,
        device=device,
        size=size,
        overlap=OVERLAP,
        batch_size=batch_size,
    )
    return torch.cat([labels_of(logits, dim=0).cpu() for _, logits in bands])[None]

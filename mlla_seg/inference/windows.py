"""The sliding window of :mod:`mlla_seg.inference.sliding_window` with a network of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data.resampling import fill_gaps, resize_images
from mlla_seg.inference.sliding_window import Read, blended_bands

Array = npt.NDArray[np.float32]


def window_logits(
    network: nn.Module,
    read: Read,
    shape: tuple[int, int],
    window: tuple[int, int],
    *,
    device: torch.device | str = "cpu",
    size: tuple[int, int] | None = None,
    **how: Any,
) -> Iterator[tuple[int, Tensor]]:
    """Blended logits of an image, from above: the first row of each band, and ``(K, rows, columns)`` float32.

    Args:
        network: Maps ``(B, C, h, w)`` to ``(B, K, h, w)``.
        read: Reads a part of the image as a tensor; windows without any data are not shown to the network.
        shape: Height and width of the whole image.
        window: Height and width of the windows, no larger than the image.
        device: Where the network is.
        size: Height and width at which the network sees a window, by default its own.
        how: Further arguments of :func:`mlla_seg.inference.sliding_window.blended_bands`.
    """

    @torch.inference_mode()
    def run(windows: list[Tensor]) -> Tensor:
        images = torch.stack([fill_gaps(window) for window in windows]).to(device, torch.float32)
        return _seen_at(network, images, size)

    return blended_bands(run, lambda array: torch.from_numpy(array).to(device), read, shape, window, **how)


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

"""From a network and slices to a label map: the one path that validation, test and prediction use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.slices import resize_images, target_size, with_neighbours

OVERLAP = 0.5
"""Overlap of neighbouring windows, as a fraction of their size."""


def predict_logits(
    network: nn.Module, images: Tensor, resize: float | Sequence[int] | None = None, window: Sequence[int] | None = None
) -> Tensor:
    """Logits ``(B, K, H, W)`` for images ``(B, C, H, W)`` of any size.

    Args:
        network: Maps ``(B, C, h, w)`` to ``(B, K, h, w)``.
        images: In raw units.
        resize: ``(height, width)``, or a factor, at which the network sees whole images; logits are brought back.
        window: ``(height, width)`` above which images are taken by overlapping windows, blended by a Gaussian.
    """
    size = images.shape[-2:]
    if resize is not None:
        images = resize_images(images, target_size(size, resize))
    if window is not None and any(n > w for n, w in zip(images.shape[-2:], window, strict=True)):
        from monai.inferers import sliding_window_inference

        roi = tuple(min(n, w) for n, w in zip(images.shape[-2:], window, strict=True))
        logits = sliding_window_inference(images, roi, len(images), network, overlap=OVERLAP, mode="gaussian")
    else:
        logits = network(images)
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
    return logits


@torch.inference_mode()
def predict_case(
    network: nn.Module,
    image: Tensor,
    device: torch.device | str,
    resize: float | Sequence[int] | None = None,
    window: Sequence[int] | None = None,
    context: int = 0,
    batch_size: int = 16,
) -> Tensor:
    """Label map ``(S, H, W)`` uint8, on the CPU, of a case ``(S, C, H, W)``.

    Slices, each with ``context`` neighbours on both sides as further channels, go through the network ``batch_size`` at
    a time, so memory is bounded by the batch and not by the volume. Other arguments: see :func:`predict_logits`.
    """
    labels = []
    for positions in torch.arange(len(image)).split(batch_size):
        chunk = with_neighbours(image, positions.tolist(), context)
        logits = predict_logits(network, chunk.to(device, torch.float32), resize, window)
        labels.append(logits.argmax(dim=1).to(torch.uint8).cpu())
    return torch.cat(labels)

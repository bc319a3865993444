"""From networks and slices to a label map: the one path that validation, test and prediction use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.slices import Grid, between, resize_images, slices_at

OVERLAP = 0.5
"""Overlap of neighbouring windows, as a fraction of their size."""
FLIPS = ((), (-1,), (-2,), (-2, -1))
"""Axes of the four mirror images of a slice."""


class Flips(nn.Module):
    """Test-time augmentation: the mean of a network's logits over the four mirror images of a slice."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to logits ``(B, K, H, W)``."""
        return torch.stack([self.network(x.flip(axes)).flip(axes) for axes in FLIPS]).mean(dim=0)


class Ensemble(nn.Module):
    """Several networks as one: logits whose softmax is the mean of the members' probabilities."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to logits ``(B, K, H, W)``."""
        probabilities = torch.stack([member(x).float().softmax(dim=1) for member in self.members]).mean(dim=0)
        return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()


def predict_logits(
    network: nn.Module, images: Tensor, size: tuple[int, int] | None = None, window: Sequence[int] | None = None
) -> Tensor:
    """Logits ``(B, K, H, W)`` for images ``(B, C, H, W)`` of any size.

    Args:
        network: Maps ``(B, C, h, w)`` to ``(B, K, h, w)``.
        images: In raw units.
        size: ``(height, width)`` at which the network sees whole images, by default their own; logits are brought back.
        window: ``(height, width)`` above which images are taken by overlapping windows, blended by a Gaussian.
    """
    original = images.shape[-2:]
    if size is not None:
        images = resize_images(images, size)
    if window is not None and any(n > w for n, w in zip(images.shape[-2:], window, strict=True)):
        from monai.inferers import sliding_window_inference

        roi = tuple(min(n, w) for n, w in zip(images.shape[-2:], window, strict=True))
        logits = sliding_window_inference(images, roi, len(images), network, overlap=OVERLAP, mode="gaussian")
    else:
        logits = network(images)
    if logits.shape[-2:] != original:
        logits = F.interpolate(logits.float(), original, mode="bilinear", align_corners=False)
    return logits


@torch.inference_mode()
def case_logits(
    network: nn.Module,
    image: Tensor,
    device: torch.device | str,
    grid: Grid | None = None,
    window: Sequence[int] | None = None,
    context: int = 0,
    batch_size: int = 16,
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
    """
    stored = len(image)
    slices, *size = grid or (stored, *image.shape[-2:])

    def run(positions: list[int]) -> Tensor:
        chunk = slices_at(image, positions, context, slices).to(device, torch.float32)
        return predict_logits(network, chunk, (size[0], size[1]), window)

    if slices == stored:
        for block in torch.arange(stored).split(batch_size):
            yield run(block.tolist())
        return
    # Slices of the case lie between those that the network sees; both are gone through upwards.
    seen: dict[int, Tensor] = {}
    for position in range(stored):
        below, above, weight = (value.item() for value in between(position, stored, slices))
        while above not in seen:
            seen = {k: logits for k, logits in seen.items() if k >= below}
            block = list(range(max(seen, default=below - 1) + 1, slices))[:batch_size]
            seen |= dict(zip(block, run(block), strict=True))
        yield torch.lerp(seen[below].float(), seen[above].float(), weight)[None]


def predict_case(
    network: nn.Module,
    image: Tensor,
    device: torch.device | str,
    grid: Grid | None = None,
    window: Sequence[int] | None = None,
    context: int = 0,
    batch_size: int = 16,
) -> Tensor:
    """Label map ``(S, H, W)`` uint8, on the CPU, of a case ``(S, C, H, W)``; arguments: see :func:`case_logits`."""
    blocks = case_logits(network, image, device, grid, window, context, batch_size)
    return torch.cat([logits.argmax(dim=1).to(torch.uint8).cpu() for logits in blocks])

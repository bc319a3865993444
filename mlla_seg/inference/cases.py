"""Torch engine, and masks of whole cases for validation, test and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data import outputs, resampling
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.slices import View, seen_by_network, slices_at, standardised
from mlla_seg.finite import require_finite_logits
from mlla_seg.inference.compile_auto import expect
from mlla_seg.inference.optimize import need_less_memory
from mlla_seg.inference.steps import OVERLAP, Engine, case_logits, reader, window_logits

Watch: TypeAlias = Callable[[int, int, Tensor], None]
"""Called with each part of a case while it is predicted: first slice, first row and logits ``(n, K, h, W)``."""


class TorchEngine(Engine):
    """Engine for a torch network.

    Args:
        network: Maps ``(B, C, h, w)`` to ``(B, K, h, w)``.
        device: Device of the network.
        writes: Class that each region writes, None for a network of classes; see :mod:`mlla_seg.data.outputs`.
        own: Whether nothing else uses the network, so that it may be changed to need less memory.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device | str = "cpu",
        writes: list[int] | None = None,
        own: bool = False,
    ) -> None:
        self.network = network
        self.device = device
        self.writes = writes
        self.own = own

    def volume(self, array: Array) -> Tensor:
        if array.dtype == np.uint16:
            array = array.astype(np.int32)  # torch barely supports uint16
        return torch.from_numpy(np.ascontiguousarray(array))

    def load(self, pieces: Any) -> Tensor:
        if isinstance(pieces, list):
            pieces = torch.stack([torch.as_tensor(piece) for piece in pieces])
        return torch.as_tensor(pieces).to(self.device, torch.float32)

    @torch.inference_mode()
    def run(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).float()
        return logits

    def fill_gaps(self, images: Tensor) -> Tensor:
        return resampling.fill_gaps(images)

    def resize_images(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        return resampling.resize_images(images, size)

    def resize_logits(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(logits.shape[-2:]) == size:
            return logits
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)

    def put(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def join(self, bands: list[Tensor]) -> Tensor:
        return torch.cat(bands, dim=1)

    def stack(self, batches: list[Tensor]) -> Tensor:
        return torch.cat(batches)

    def spare_memory(self, change: bool) -> bool:
        if torch.device(self.device).type == "cuda":
            torch.cuda.empty_cache()
        return change and self.own and need_less_memory(self.network)

    def expect(self, left: float) -> None:
        expect(self.network, left)

    def labels(self, logits: Tensor, axis: int) -> Array:
        return labels_of(logits, axis, self.writes).cpu().numpy()

    def probabilities(self, logits: Tensor, axis: int) -> Array:
        return outputs.probabilities(logits, self.writes, axis).cpu().numpy()


def labels_of(logits: Tensor, dim: int, writes: list[int] | None = None) -> Tensor:
    """Return class indices (uint8), see :func:`mlla_seg.data.outputs.labels`.

    Raises:
        InputError: A logit is NaN or infinite.
    """
    require_finite_logits(logits.amax(dim))
    return outputs.labels(logits, writes, dim)


def predict_case(
    network: nn.Module,
    image: Tensor,
    view: View,
    spacing_mm: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    writes: list[int] | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Return the mask ``(S, H, W)``, uint8 on the CPU, of a case ``(S, C, H, W)``; for arguments see
    :func:`mlla_seg.inference.steps.case_logits` and :class:`TorchEngine`, and for ``watch`` :data:`Watch`.
    """
    labels = torch.empty(len(image), *image.shape[-2:], dtype=torch.uint8)
    # Only labels are kept, which need far less memory than logits.
    for first, top, logits in _parts(TorchEngine(network, device), image, view, spacing_mm, batch_size):
        part = labels[first : first + len(logits), top : top + logits.shape[-2]]
        part.copy_(labels_of(logits, 1, writes))
        if watch is not None:
            watch(first, top, logits)
    return labels


def _parts(
    engine: TorchEngine, image: Tensor, view: View, spacing_mm: Sequence[float] | None, batch_size: int
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield first slice, first row and logits ``(n, K, h, W)`` of some slices, or of some rows of a single one."""
    if len(image) > 1 or view.patch_size is None or view.axes == 3:
        first = 0
        for logits in case_logits(engine, image, view, spacing_mm, batch_size):
            yield first, 0, logits
            first += len(logits)
        return
    shape = (image.shape[-2], image.shape[-1])
    _, *grid = view.grid((1, *shape), spacing_mm)
    seen, size = seen_by_network(shape, grid, view.patch_size)
    whole = slices_at(image, [0], view.context)
    if moments := view.moments(image):
        whole = standardised(whole.float(), moments, view.context)
    read = reader(whole[0])
    bands = window_logits(engine, read, shape, seen, size, overlap=OVERLAP, batch_size=batch_size)
    yield from ((0, top, logits[None]) for top, logits in bands)

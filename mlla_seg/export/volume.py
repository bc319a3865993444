"""Scriptable modules that segment whole volumes slice by slice or by patches, including pre- and postprocessing."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data import outputs
from mlla_seg.data.slices import RESCALE, ZSCORE, View
from mlla_seg.inference.steps import OVERLAP

CHUNK = 4
"""Slices per forward pass."""


class Volume(nn.Module):
    """Segmenter of volumes ``(B, C, H, W, S)`` in raw units, slices last, that returns class values or probabilities.

    Neighbouring slices, resizing and sliding window repeat :func:`mlla_seg.inference.steps.case_logits` in a form that
    TorchScript supports; a test checks that the two agree.

    Args:
        network: Maps ``(B, (2 context + 1) C, h, w)`` to logits.
        view: Preprocessing of volumes, apart from resampling to the spacing.
        values: Mask value of each class; None for probabilities.
        writes: Class that each region writes, None for a network of classes; see :mod:`mlla_seg.data.outputs`.
    """

    values: Tensor
    zscored: Tensor
    rescaled: Tensor

    def __init__(
        self,
        network: nn.Module,
        view: View,
        values: list[int] | None = None,
        writes: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.writes = writes
        self.context = view.context
        self.per_case = bool(view.per_case)
        self.size = [0, 0] if view.resize is None or isinstance(view.resize, (int, float)) else list(view.resize)
        self.factor = float(view.resize) if isinstance(view.resize, (int, float)) else 1.0
        self.window = list(view.patch_size or (0, 0))
        self.keep = 1 - OVERLAP
        self.chunk = CHUNK
        self.labels = values is not None
        dtype = torch.uint8 if max(values or [0]) < 256 else torch.int16
        self.register_buffer("values", torch.tensor(values or [0], dtype=dtype))
        schemes = [ZSCORE] if isinstance(view.per_case, bool) else view.per_case  # one stands for all channels
        for name, scheme in (("zscored", ZSCORE), ("rescaled", RESCALE)):
            self.register_buffer(name, torch.tensor([own == scheme for own in schemes])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W, S)`` to class values ``(B, 1, H, W, S)`` or probabilities ``(B, K, H, W, S)``."""
        cases: list[Tensor] = []
        for case in x.float().unbind(0):
            volume = case.permute(3, 0, 1, 2)  # (S, C, H, W)
            if self.per_case:
                volume = self.normalised(volume)
            cases.append(self.segment(volume).permute(1, 2, 3, 0))
        return torch.stack(cases)

    def segment(self, volume: Tensor) -> Tensor:
        """Return class values ``(S, 1, H, W)`` or probabilities ``(S, K, H, W)`` of ``(S, C, H, W)``."""
        blocks: list[Tensor] = []
        for start in range(0, volume.shape[0], self.chunk):
            blocks.append(self.segment_slices(volume, start, min(start + self.chunk, volume.shape[0])))
        return torch.cat(blocks, dim=0)

    def normalised(self, volume: Tensor) -> Tensor:
        """Normalise ``(S, C, H, W)`` as a whole, as :func:`mlla_seg.data.slices.case_moments` says."""
        std, mean = torch.std_mean(volume.double(), dim=(0, 2, 3), keepdim=True, correction=0)
        low, high = volume.amin(dim=(0, 2, 3), keepdim=True), volume.amax(dim=(0, 2, 3), keepdim=True)
        shift = torch.where(self.zscored, mean.float(), torch.where(self.rescaled, low, torch.zeros_like(low)))
        scale = torch.where(self.rescaled, (high - low).clamp(min=1e-8), torch.ones_like(low))
        scale = torch.where(self.zscored, std.float().clamp(min=1e-6), scale)
        return (volume - shift) / scale

    def segment_slices(self, volume: Tensor, start: int, end: int) -> Tensor:
        """Return class values ``(n, 1, H, W)`` or probabilities ``(n, K, H, W)`` of slices of ``(S, C, H, W)``."""
        height, width = volume.shape[2], volume.shape[3]
        near = torch.arange(-self.context, self.context + 1, device=volume.device)
        index = torch.arange(start, end, device=volume.device)[:, None] + near
        images = volume[index.clamp(0, volume.shape[0] - 1)].flatten(1, 2)  # (n, (2 context + 1) C, H, W)
        seen = self.size
        if seen[0] == 0:
            seen = [max(1, int(round(n * self.factor))) for n in (height, width)]  # noqa: RUF046 - TorchScript
        if seen[0] != height or seen[1] != width:
            images = F.interpolate(images, seen, mode="bicubic", align_corners=False, antialias=True)
        logits = self.logits(images)
        if seen[0] != height or seen[1] != width:
            logits = F.interpolate(logits, [height, width], mode="bilinear", align_corners=False)
        return self.finished(logits)

    def finished(self, logits: Tensor) -> Tensor:
        """Return class values ``(n, 1, *spatial)`` or probabilities ``(n, K, *spatial)``."""
        if self.labels:
            return self.values[outputs.labels(logits, self.writes)[:, None].long()]
        return outputs.probabilities(logits, self.writes)

    def logits(self, images: Tensor) -> Tensor:
        """Return logits of slices ``(n, C, h, w)``, by sliding window if they are larger than the training patches."""
        height, width = images.shape[2], images.shape[3]
        if self.window[0] == 0 or (height <= self.window[0] and width <= self.window[1]):
            return self.network(images).float()
        rows, columns = min(self.window[0], height), min(self.window[1], width)
        weights = torch.clamp(self.bell(rows, images)[:, None] * self.bell(columns, images), min=1e-3)
        total = torch.zeros(1, device=images.device)
        weight = torch.zeros(height, width, device=images.device)
        for top in self.starts(height, rows):
            for left in self.starts(width, columns):
                own = self.network(images[:, :, top : top + rows, left : left + columns]).float()
                if total.numel() == 1:
                    total = torch.zeros(own.shape[0], own.shape[1], height, width, device=images.device)
                total[:, :, top : top + rows, left : left + columns] += own * weights
                weight[top : top + rows, left : left + columns] += weights
        return total / weight

    def bell(self, size: int, x: Tensor) -> Tensor:
        """Return a Gaussian whose standard deviation is an eighth of the window."""
        place = torch.arange(size, device=x.device) - (size - 1) / 2
        return torch.exp(-0.5 * (place / (size / 8)) ** 2)

    def starts(self, size: int, window: int) -> list[int]:
        """Return the starts of windows along an axis; the last window is shifted back to end with the axis."""
        step = max(1, int(window * self.keep))
        found: list[int] = []
        for start in range(0, max(size - window, 0) + step, step):
            place = min(start, size - window)
            if len(found) == 0 or found[-1] != place:
                found.append(place)
        return found


class PatchedVolume(Volume):
    """The same for networks of three axes: one sliding window over slices, rows and columns.

    Args:
        network: Maps ``(B, C, D, h, w)`` to logits.
        view: Preprocessing of volumes, apart from resampling to the spacing.
        values: Mask value of each class; None for probabilities.
        writes: Class that each region writes, None for a network of classes.
    """

    def segment(self, volume: Tensor) -> Tensor:
        """Return class values ``(S, 1, H, W)`` or probabilities ``(S, K, H, W)`` of ``(S, C, H, W)``."""
        return self.finished(self.logits(volume.transpose(0, 1)[None]))[0].transpose(0, 1)

    def logits(self, images: Tensor) -> Tensor:
        """Return logits of ``(1, C, S, H, W)``, blended where windows overlap."""
        sizes = images.shape[2:]
        depth, rows, columns = [min(n, size) for n, size in zip(self.window, sizes)]  # noqa: B905 - TorchScript
        weights = self.bell(depth, images)[:, None, None] * self.bell(rows, images)[:, None]
        weights = torch.clamp(weights * self.bell(columns, images), min=1e-3)
        total = torch.zeros(1, device=images.device)
        weight = torch.zeros(sizes, device=images.device)
        for first in self.starts(sizes[0], depth):
            for top in self.starts(sizes[1], rows):
                for left in self.starts(sizes[2], columns):
                    window = images[:, :, first : first + depth, top : top + rows, left : left + columns]
                    own = self.network(window).float() * weights
                    if total.numel() == 1:
                        total = torch.zeros(1, own.shape[1], sizes[0], sizes[1], sizes[2], device=images.device)
                    total[:, :, first : first + depth, top : top + rows, left : left + columns] += own
                    weight[first : first + depth, top : top + rows, left : left + columns] += weights
        return total / weight

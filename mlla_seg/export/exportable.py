"""Export job and exportable network: raw pixels to the chosen output, batch norms folded into convolutions."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlla_seg._version import __version__
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.outputs import labels, probabilities
from mlla_seg.inference.optimize import fold_batch_norms
from mlla_seg.models.segmenter import Segmenter


@dataclass(frozen=True)
class Job:
    """Options of an export.

    Args:
        network: Segmenter or ensemble; maps ``(B, C, *spatial)`` in raw units to logits ``(B, K, *spatial)``.
        spec: Description of its data.
        outputs: A name in :data:`mlla_seg.runtime.engines.OUTPUTS`.
        precision: ``float32``, ``float16`` or ``int8``; inputs and outputs are float32 in all of them.
        opset: ONNX opset version.
        calibration: Image, folder or list of images, to calibrate int8 quantisation.
        tile: Side of the square input of a graph of fixed size; None for the format's default.
        pixel_size_m: Ground sample distance of the training images, in metres.
    """

    network: nn.Module
    spec: DataSpec
    outputs: str = "logits"
    precision: str = "float32"
    opset: int = 18
    calibration: str | None = None
    tile: int | None = None
    pixel_size_m: float | None = None

    @property
    def channels(self) -> int:
        """Input channels of the network, including those of neighbouring slices."""
        return self.spec.in_channels

    @property
    def facts(self) -> dict[str, str]:
        """Metadata of the exported file as JSON strings: classes, colours, channels, normalisation, spacing, ..."""
        about = {"mlla_seg_version": __version__, "outputs": self.outputs, "precision": self.precision}
        content = about | self.spec.to_dict()
        return {key: json.dumps(value) for key, value in content.items()}


class Exportable(nn.Module):
    """Copy of a network prepared for export, followed by the step to probabilities or labels if requested.

    Args:
        network: Maps ``(B, C, *spatial)`` in raw units to logits ``(B, K, *spatial)``.
        outputs: A name in :data:`mlla_seg.runtime.engines.OUTPUTS`.
        precision: ``float32`` or ``float16``.
        writes: Class that each region writes, None for a network of classes; see :mod:`mlla_seg.data.outputs`.
    """

    def __init__(
        self,
        network: nn.Module,
        outputs: str = "logits",
        precision: str = "float32",
        writes: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        self.outputs = outputs
        self.writes = writes
        fold_batch_norms(self.network)
        pool_any_size(self.network)
        if precision == "float16":
            for module in [module for module in self.network.modules() if isinstance(module, Segmenter)]:
                normalise = copy.deepcopy(module.normalise)  # raw units may exceed the range of float16
                module.half()
                module.normalise = _ThenHalf(normalise)  # type: ignore[assignment]

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` float32 in raw units to the chosen output."""
        logits = self.network(image).float()
        if self.outputs == "probabilities":
            return probabilities(logits, self.writes)
        if self.outputs == "labels":
            return labels(logits, self.writes)
        return logits


class _ThenHalf(nn.Module):
    """Normalisation in float32 before a network in float16."""

    def __init__(self, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x).half()


class AnyPool(nn.Module):
    """Adaptive average pooling as two matrix products, because ONNX exports the original only for fixed input sizes.

    Args:
        size: Height and width of the output.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        rows = _bins(x, x.shape[-2], self.size[0])
        columns = _bins(x, x.shape[-1], self.size[1])
        return rows @ x @ columns.T


def _bins(x: Tensor, size: int, count: int) -> Tensor:
    """Return weights ``(count, size)``: bin k averages from floor(k size / count) to ceil((k + 1) size / count)."""
    k = torch.arange(count, device=x.device)[:, None]
    place = torch.arange(size, device=x.device)
    inside = (place >= k * size // count) & (place < ((k + 1) * size + count - 1) // count)
    return inside.to(x.dtype) / inside.sum(dim=1, keepdim=True)


def pool_any_size(network: nn.Module) -> None:
    """Replace adaptive average pooling to more than one pixel by :class:`AnyPool`."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            size = child.output_size if isinstance(child, nn.AdaptiveAvgPool2d) else 1
            rows, columns = size if isinstance(size, tuple) else (size, size)
            if rows and columns and (rows, columns) != (1, 1):
                module._modules[name] = AnyPool((rows, columns))


def example_image(spec: DataSpec, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Return a random image ``(B, C, *spatial)`` in raw units, with mean and deviation of the training images."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*shape[:2], *(max(2, n // 16) for n in shape[2:]), generator=generator)
    smooth = nn.functional.interpolate(coarse, tuple(shape[2:]), mode="bicubic" if len(shape) == 4 else "trilinear")
    pixels = smooth + 0.3 * torch.randn(tuple(shape), generator=generator)
    mean, std = (torch.as_tensor(value).float() for value in (spec.normalisation.mean, spec.normalisation.std))
    own = len(spec.channels)
    of_channels = (-1, *[1] * (len(shape) - 2))
    mean, std = (value.expand(own).repeat(shape[1] // own).view(of_channels) for value in (mean, std))
    return pixels * std + mean

"""Depthwise convolution on channels-last feature maps."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mlla_seg.models.depthwise3d import Depthwise3d, depthwise3d
from mlla_seg.models.ops import to_channels_first, to_channels_last


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution, 3x3 by default, on channels-last tensors ``(B, H, W, C)``, with bias."""

    def __init__(self, dim: int, kernel: tuple[int, int] = (3, 3)) -> None:
        super().__init__(dim, dim, kernel, padding=(kernel[0] // 2, kernel[1] // 2), groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_last(self._conv_forward(to_channels_first(x), self.weight, self.bias))


class DepthwiseConv3d(Depthwise3d):
    """Depthwise convolution on channels-last tensors ``(B, D, H, W, C)``, with bias."""

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_last(depthwise3d(to_channels_first(x), self.weight, self.bias, [1, 1, 1]))


BY_AXES: dict[int, Callable[..., nn.Module]] = {2: DepthwiseConv, 3: DepthwiseConv3d}


def depthwise_conv(dim: int, kernel: tuple[int, ...]) -> Any:
    """Build a depthwise convolution of channels-last tensors for kernels with two or three axes."""
    return BY_AXES[len(kernel)](dim, kernel)

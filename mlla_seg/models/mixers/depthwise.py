"""Depthwise convolution on channels-last feature maps."""

from torch import Tensor, nn

from mlla_seg.models.ops import to_channels_first, to_channels_last


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution, 3x3 by default, on channels-last tensors ``(B, H, W, C)``, with bias."""

    def __init__(self, dim: int, kernel_size: int = 3) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_last(self._conv_forward(to_channels_first(x), self.weight, self.bias))

"""Depthwise convolution on channels-last feature maps."""

from __future__ import annotations

from torch import Tensor, nn


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution, 3x3 by default, on channels-last tensors ``(B, H, W, C)``, with bias."""

    def __init__(self, dim: int, kernel_size: int = 3) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x.movedim(-1, 1), self.weight, self.bias).movedim(1, -1)

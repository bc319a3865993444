"""Depthwise 2-D convolutions that are fast in half precision on CPUs.

torch has no fast code there for a transposed depthwise convolution, nor for the gradient of one with a stride, which is
the same operation: in bfloat16 a call takes 80 ms or more even for small maps, in float32 often less than one. So these
run in float32, and their results are rounded to the precision of the other layers. Elsewhere torch's own convolutions
run.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models.ops import full_precision

HALF = (torch.bfloat16, torch.float16)


class Depthwise2d(nn.Conv2d):
    """Depthwise convolution of ``(B, C, H, W)``, padded by half the kernel; sizes are divided by the stride."""

    def __init__(self, dim: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__(dim, dim, kernel, stride, (kernel[0] // 2, kernel[1] // 2), groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        half = half_on_cpu(x)
        if half is None or max(self.stride) == 1 or not torch.is_grad_enabled():
            return self._conv_forward(x, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.float()
        with full_precision(x.device):
            return self._conv_forward(x.float(), self.weight.float(), bias).to(half)


class TransposedDepthwise2d(nn.ConvTranspose2d):
    """Transposed depthwise convolution of ``(B, C, H, W)`` without bias, which multiplies sizes by the stride."""

    def __init__(self, dim: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        padding, output_padding = (kernel[0] // 2, kernel[1] // 2), (stride[0] - 1, stride[1] - 1)
        super().__init__(dim, dim, kernel, stride, padding, output_padding, groups=dim, bias=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        stride = list(self.stride)
        if torch.jit.is_scripting():
            return _transposed2d(x, self.weight, stride)
        half = half_on_cpu(x)
        if half is None:
            return _transposed2d(x, self.weight, stride)
        with full_precision(x.device):
            return _transposed2d(x.float(), self.weight.float(), stride).to(half)


def half_on_cpu(x: Tensor) -> torch.dtype | None:
    """Return the half precision in which a convolution of ``x`` would run on a CPU; None elsewhere and in others."""
    if x.device.type != "cpu" or x.dtype == torch.float64:  # autocast leaves float64
        return None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return dtype if dtype in HALF else None


def _transposed2d(x: Tensor, weight: Tensor, stride: list[int]) -> Tensor:
    padding = [size // 2 for size in weight.shape[2:]]
    output_padding = [step - 1 for step in stride]
    return F.conv_transpose2d(x, weight, None, stride, padding, output_padding, weight.shape[0])

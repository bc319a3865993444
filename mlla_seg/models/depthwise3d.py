"""Depthwise 3-D convolutions whose gradients are fast on CPUs.

On CPUs torch computes a depthwise ``Conv3d`` of channels-last tensors fast forward, but its gradients 10 to 60 times
slower. Here the gradient of the input is such a forward convolution with the flipped kernel, and that of the kernel is
a sum of 2-D gradients over slices, for which torch has fast code: ``benchmarks/depthwise3d.py``. Results are those of
``Conv3d``, up to rounding. Elsewhere, and in recorded graphs, torch's own convolutions run.
"""

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models.ops import channels_last_memory, to_channels_first, to_channels_last


def depthwise3d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int]) -> Tensor:
    """Convolve each channel with its own kernel, padded with zeros by half the kernel.

    Args:
        x: ``(B, C, D, H, W)``, best in channels-last memory.
        weight: ``(C, 1, k, k, k)``, each k odd.
        bias: ``(C)``.
        stride: Stride of each axis.

    Returns:
        ``(B, C, D', H', W')`` with each size divided by its stride, rounded up.
    """
    if torch.jit.is_scripting():
        return depthwise3d_reference(x, weight, bias, stride)
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or x.device.type != "cpu":
        return depthwise3d_reference(x, weight, bias, stride)
    x, weight, bias = _autocast(x), _autocast(weight), None if bias is None else _autocast(bias)
    with torch.autocast("cpu", enabled=False):
        y: Tensor = _Depthwise3d.apply(channels_last_memory(x, 3), weight, bias, stride)
    return y


def depthwise3d_reference(x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int]) -> Tensor:
    """Reference implementation of :func:`depthwise3d`."""
    padding = [size // 2 for size in weight.shape[2:]]
    return F.conv3d(x, weight, bias, stride, padding, groups=weight.shape[0])


def transposed3d(x: Tensor, weight: Tensor, stride: list[int]) -> Tensor:
    """Transposed convolution of each channel with its own kernel, the gradient of :func:`depthwise3d`'s input.

    Args:
        x: ``(B, C, D, H, W)``, best in channels-last memory.
        weight: ``(C, 1, k, k, k)``, each k odd.
        stride: Stride of each axis.

    Returns:
        ``(B, C, D', H', W')`` with each size multiplied by its stride.
    """
    if torch.jit.is_scripting():
        return transposed3d_reference(x, weight, stride)
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or x.device.type != "cpu":
        return transposed3d_reference(x, weight, stride)
    x, weight = _autocast(x), _autocast(weight)
    with torch.autocast("cpu", enabled=False):
        y: Tensor = _Transposed3d.apply(channels_last_memory(x, 3), weight, stride)
    return y


def transposed3d_reference(x: Tensor, weight: Tensor, stride: list[int]) -> Tensor:
    """Reference implementation of :func:`transposed3d`."""
    padding = [size // 2 for size in weight.shape[2:]]
    output_padding = [step - 1 for step in stride]
    return F.conv_transpose3d(x, weight, None, stride, padding, output_padding, weight.shape[0])


class _Depthwise3d(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int]) -> Tensor:
        return depthwise3d_reference(x, weight, bias, stride)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, list[int]], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.stride = inputs[3]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = channels_last_memory(grad, 3)
        of_x = _of_input(grad, weight, ctx.stride, x.shape) if ctx.needs_input_grad[0] else None
        of_weight = _of_weight(grad, x, weight, ctx.stride) if ctx.needs_input_grad[1] else None
        of_bias = grad.sum(dim=(0, 2, 3, 4)) if ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias, None


class _Transposed3d(torch.autograd.Function):
    """The same functions with the roles of input and output exchanged."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: list[int]) -> Tensor:
        sizes = [size * step for size, step in zip(x.shape[2:], stride, strict=True)]
        return _of_input(x, weight, stride, torch.Size([*x.shape[:2], *sizes]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, list[int]], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.stride = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = channels_last_memory(grad, 3)
        of_x = depthwise3d_reference(grad, weight, None, ctx.stride) if ctx.needs_input_grad[0] else None
        of_weight = _of_weight(x, grad, weight, ctx.stride) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None


def _of_input(grad: Tensor, weight: Tensor, stride: list[int], shape: torch.Size) -> Tensor:
    """Return the gradient of an input of this shape: a convolution of the gradients, spread by the stride."""
    if grad.shape != shape:
        spread = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last_3d).zero_()
        spread[:, :, :: stride[0], :: stride[1], :: stride[2]] = grad
        grad = spread
    return depthwise3d_reference(grad, weight.flip(2, 3, 4), None, [1, 1, 1])


def _of_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: list[int]) -> Tensor:
    """Return the gradient of the kernel: for each of its slices, the 2-D gradient over the slices that it meets."""
    depth, *plane = weight.shape[2:]
    padding = [size // 2 for size in plane]
    parts = []
    for k in range(depth):
        shift = k - depth // 2
        first = max(0, -(shift // stride[0]))  # first output slice whose input slice is not padding
        last = min(grad.shape[2] - 1, (x.shape[2] - 1 - shift) // stride[0])
        if last < first:
            parts.append(torch.zeros_like(weight[:, :, k]))
            continue
        met = slice(first * stride[0] + shift, last * stride[0] + shift + 1, stride[0])
        images, grads = _as_images(x[:, :, met]), _as_images(grad[:, :, first : last + 1])
        arguments = (stride[1:], padding, [1, 1], False, [0, 0], weight.shape[0])
        only_weight = [False, True, False]
        gradients = torch.ops.aten.convolution_backward(grads, images, weight[:, :, k], None, *arguments, only_weight)
        parts.append(gradients[1])
    return torch.stack(parts, dim=2)


def _as_images(x: Tensor) -> Tensor:
    """Return slices ``(B, C, D, H, W)`` as a batch of images ``(B D, C, H, W)`` in channels-last memory."""
    return to_channels_first(to_channels_last(x).flatten(0, 1))


def _autocast(x: Tensor) -> Tensor:
    """Cast to the precision of autocast on CPUs, as convolutions do, if it is active."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


Triple: TypeAlias = tuple[int, int, int]


class Depthwise3d(nn.Conv3d):
    """Depthwise convolution of ``(B, C, D, H, W)``, best in channels-last memory."""

    def __init__(self, dim: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__(dim, dim, kernel, stride, padding, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise3d(x, self.weight, self.bias, list(self.stride))


class TransposedDepthwise3d(nn.ConvTranspose3d):
    """Transposed depthwise convolution of ``(B, C, D, H, W)`` without bias, which multiplies sizes by the stride."""

    def __init__(self, dim: int, kernel: Triple, stride: Triple) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        output_padding = (stride[0] - 1, stride[1] - 1, stride[2] - 1)
        super().__init__(dim, dim, kernel, stride, padding, output_padding, groups=dim, bias=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return transposed3d(x, self.weight, list(self.stride))

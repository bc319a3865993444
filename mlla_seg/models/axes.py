"""Layers, strides and kernels of networks with two spatial axes (images) or three (volumes).

Axes are (rows, columns) or (slices, rows, columns). A network halves the resolution in five steps; along each axis a
step has the stride 2, or 1 where that axis is coarse or small. Its levels 0 (the image) to 5 have a kernel each.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data.halving import STEPS
from mlla_seg.errors import InputError
from mlla_seg.models.depthwise2d import Depthwise2d, TransposedDepthwise2d
from mlla_seg.models.depthwise3d import Depthwise3d, TransposedDepthwise3d
from mlla_seg.models.ops import to_channels_first, to_channels_last

BATCH_NORM: dict[int, Callable[..., Any]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
LINEAR_MODE = {2: "bilinear", 3: "trilinear"}
"""Names of linear interpolation by number of axes."""


class Pointwise3d(nn.Conv3d):
    """Convolution of single voxels of ``(B, C, D, H, W)`` as a matrix product, which is faster on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_first(F.linear(to_channels_last(x), self.weight.flatten(1), self.bias))


def _conv3d(in_channels: int, out_channels: int, kernel: Any, *args: Any, **options: Any) -> nn.Module:
    kind = Pointwise3d if kernel in (1, (1, 1, 1)) else nn.Conv3d
    return kind(in_channels, out_channels, kernel, *args, **options)


CONV: dict[int, Callable[..., Any]] = {2: nn.Conv2d, 3: _conv3d}
"""Convolutions of ``(B, C, *spatial)`` by number of axes, with the arguments of torch's."""


DEPTHWISE: dict[int, Callable[..., Any]] = {2: Depthwise2d, 3: Depthwise3d}
"""Depthwise convolutions of ``(B, C, *spatial)`` by number of axes; sizes are divided by the stride."""
TRANSPOSED: dict[int, Callable[..., Any]] = {2: TransposedDepthwise2d, 3: TransposedDepthwise3d}
"""Their transposes, without bias; sizes are multiplied by the stride."""


def require_strides(dims: int, strides: Sequence[Sequence[int]] | None) -> list[tuple[int, ...]]:
    """Return the stride of each step and axis; by default all are 2.

    Raises:
        InputError: There are not five steps, or not one stride of 1 or 2 for each axis.
    """
    if dims not in CONV:
        raise InputError(f"dims is the number of spatial axes, 2 for images or 3 for volumes: got {dims}.")
    if strides is None:
        return [(2,) * dims] * STEPS
    checked = [tuple(int(stride) for stride in step) for step in strides]
    if len(checked) != STEPS or any(len(step) != dims or not set(step) <= {1, 2} for step in checked):
        raise InputError(
            f"strides needs {STEPS} steps with a stride of 1 or 2 for each of {dims} axes, such as "
            f"{[[1] * (dims - 2) + [2, 2]] * STEPS}: got {[list(step) for step in checked]}."
        )
    return checked


def kernels_of(strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return the kernel size of each level and axis, given the strides of each step.

    A kernel is 1 wide along an axis that is halved in a later step only, because it is coarse, and 3 wide from the
    level whose halving includes it; an axis that is never halved has 3 everywhere.
    """
    axes = range(len(strides[0]))
    first = [next((i for i, step in enumerate(strides) if step[axis] == 2), 0) for axis in axes]
    return [tuple(3 if level >= first[axis] else 1 for axis in axes) for level in range(len(strides) + 1)]

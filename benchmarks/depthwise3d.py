"""Depthwise 3-D convolutions on CPUs: torch's own, candidates, and the one in use, forward and backward.

    python benchmarks/depthwise3d.py --threads 1

Medians in milliseconds within one run, for the sizes of a patch of 64 x 64 x 64 with E = 64. Candidates: ``Conv3d`` in
NCDHW and in channels-last memory; the sum over kernel slices of shifted 2-D depthwise convolutions; and
``mlla_seg.models.depthwise3d``. Strided and transposed ones as in the resolution changes of the network.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mlla_seg.models.depthwise3d import depthwise3d, depthwise3d_reference, transposed3d, transposed3d_reference
from mlla_seg.models.ops import channels_last_memory

SINGLE, HALVED = [1, 1, 1], [2, 2, 2]


def in_nchw(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Torch's convolution of contiguous memory."""
    return depthwise3d_reference(x.contiguous(), weight, bias, SINGLE)


def by_slices(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Sum over the slices of the kernel of 2-D convolutions of shifted slices."""
    padded = F.pad(x.movedim(1, -1), (0, 0, 0, 0, 0, 0, 1, 1))
    depth = x.shape[2]
    total: Tensor | float = 0.0
    for k in range(3):
        images = padded[:, k : k + depth].flatten(0, 1).movedim(-1, 1)
        y = F.conv2d(images, weight[:, :, k], bias if k == 1 else None, padding=1, groups=len(weight))
        total = total + y
    assert isinstance(total, Tensor)
    return total.movedim(1, -1).unflatten(0, (len(x), depth)).movedim(-1, 1)


CASES: dict[str, tuple[tuple[int, int], dict[str, Callable[..., Tensor]]]] = {
    "stride 1": (
        (64, 16),
        {
            "Conv3d, NCDHW": in_nchw,
            "Conv3d, channels last": lambda x, w, b: depthwise3d_reference(x, w, b, SINGLE),
            "shifted 2-D": by_slices,
            "in use": lambda x, w, b: depthwise3d(x, w, b, SINGLE),
        },
    ),
    "stride 2": (
        (512, 18),
        {
            "Conv3d, channels last": lambda x, w, b: depthwise3d_reference(x, w, b, HALVED),
            "in use": lambda x, w, b: depthwise3d(x, w, b, HALVED),
        },
    ),
    "transposed": (
        (512, 8),
        {
            "ConvTranspose3d, channels last": lambda x, w, b: transposed3d_reference(x, w, HALVED),
            "in use": lambda x, w, b: transposed3d(x, w, HALVED),
        },
    ),
}


def measured(function: Callable[..., Tensor], channels: int, size: int, rounds: int) -> tuple[float, float]:
    """Return the median time forward and backward, in milliseconds."""
    x = channels_last_memory(torch.randn(1, channels, size, size, size)).requires_grad_()
    weight, bias = torch.randn(channels, 1, 3, 3, 3, requires_grad=True), torch.randn(channels, requires_grad=True)
    forward, backward = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        y = function(x, weight, bias)
        middle = time.perf_counter()
        gradient = torch.ones_like(y)
        x.grad = weight.grad = bias.grad = None
        begin = time.perf_counter()
        y.backward(gradient)
        backward.append(time.perf_counter() - begin)
        forward.append(middle - start)
    return 1e3 * statistics.median(forward), 1e3 * statistics.median(backward)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| convolution | shape | forward ms | backward ms |\n|---|---|---|---|")
    for case, ((channels, size), functions) in CASES.items():
        for name, function in functions.items():
            forward, backward = measured(function, channels, size, options.rounds)
            print(f"| {case}: {name} | {channels} x {size}^3 | {forward:.2f} | {backward:.2f} |")


if __name__ == "__main__":
    main()

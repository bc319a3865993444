"""InLine attention: linear attention with injective weights and an input-dependent local residual.

Source: "Bridging the Divide: Reconsidering Softmax and Linear Attention", arXiv 2412.06590, and the authors' code.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models import ops


def inline_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Return ``sum_j w_ij v_j`` with ``w_ij = s/N q_i . (k_j - mean(k)) + 1/N`` per head, linear in N.

    The weights of each query sum to one by subtraction instead of division, so that no two queries share weights;
    s = d ** -0.5, and the feature map is the identity, as in the authors' networks.

    Args:
        q: Queries ``(B, N, C)``.
        k: Keys ``(B, N, C)``.
        v: Values ``(B, N, C)``.
        num_heads: Number of heads.
    """
    tokens = v.shape[1]
    q, k, v = ops.heads(q, num_heads), ops.heads(k, num_heads), ops.heads(v, num_heads)
    q = q * q.shape[-1] ** -0.5
    state = k.transpose(-1, -2) @ (v / tokens)
    rest = 1 - q @ k.mean(dim=2, keepdim=True).transpose(-1, -2)  # (B, h, N, 1)
    y = q @ state + rest * v.mean(dim=2, keepdim=True)
    return y.transpose(1, 2).flatten(2)


class InLine(nn.Module):
    """InLine attention plus a depthwise convolution of the values, its kernels predicted from the mean token."""

    def __init__(self, dim: int, num_heads: int, kernel: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kernel = list(kernel)
        places = math.prod(kernel)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.kernels = nn.Sequential(
            nn.Conv1d(dim, dim, 1, groups=num_heads), nn.GELU(), nn.Conv1d(dim, places * dim, 1, groups=num_heads)
        )

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        args = (ops.at_least_float32(q), ops.at_least_float32(k), ops.at_least_float32(v), self.num_heads)
        if torch.jit.is_scripting():
            y = inline_attention(*args)
        else:
            with ops.full_precision(x.device):
                y = inline_attention(*args)
        mean = ops.at_least_float32(tokens).mean(dim=1).to(x.dtype).unsqueeze(-1)
        kernels = self.kernels(mean).unflatten(1, (x.shape[-1], -1))[..., 0]  # (B, C, n)
        return y.to(v.dtype).view(x.shape) + local(v.view(x.shape), kernels, self.kernel)


def local(x: Tensor, kernels: Tensor, size: list[int]) -> Tensor:
    """Convolve each ``(*spatial, C)`` of a batch with kernels of its own, ``(B, C, n)``, padded with zeros.

    A sum of shifted images, because a grouped convolution cannot be exported for any batch size.

    Args:
        x: ``(B, *spatial, C)``.
        kernels: Kernels with n values, row by row.
        size: Size of the kernel along each axis; their product is n.
    """
    axes = len(size)
    padding = [0, 0]
    for axis in range(axes - 1, -1, -1):
        padding += [size[axis] // 2, size[axis] // 2]
    padded = F.pad(x, padding)
    y = torch.zeros_like(x)
    for i in range(kernels.shape[2]):
        shifted, rest = padded, i
        for axis in range(axes - 1, -1, -1):
            shifted = shifted.narrow(1 + axis, rest % size[axis], x.shape[1 + axis])
            rest = rest // size[axis]
        y = y + shifted * kernels[..., i].unflatten(0, [-1] + [1] * axes)
    return y

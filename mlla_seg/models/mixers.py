"""Token mixers: the part of a block that exchanges information between pixels.

Contract: ``Mixer(dim, num_heads)``; ``forward(x, rope)`` maps ``(B, *spatial, C)`` to the same shape, where ``rope`` is
the table of :func:`mlla_seg.models.ops.rope_table` for that grid. To add a mixer, write a module here, put its formula
and reference implementation in ``ops.py`` unless it is a one-liner, and add it to ``MIXERS``, which the tests cover.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models import ops


class DepthwiseConv(nn.Conv2d):
    """3x3 depthwise convolution on channels-last tensors ``(B, H, W, C)``, with bias."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x.movedim(-1, 1), self.weight, self.bias).movedim(1, -1)


class LinearAttention(nn.Module):
    """MLLA's mixer: linear attention with RoPE and no value projection, plus a local position encoding (LePE)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels cannot be split into {num_heads} heads of equal size.")
        self.num_heads = num_heads
        self.qk = nn.Linear(dim, 2 * dim)
        self.lepe = DepthwiseConv(dim)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)  # (B, N, C)
        q, k = self.qk(tokens).chunk(2, dim=-1)
        y = ops.linear_attention(q, k, tokens, rope.flatten(0, -3), self.num_heads)
        return y.view(x.shape) + self.lepe(x)


# Controls for ablations. If each pixel attended only to itself, attention would return x (q.k x / q.k = x), so
# y = x + LePE(x) is MLLA's mixer without global context. From identity through lepe and lepe_matched to
# linear_attention, each step adds one thing: local convolution, parameters, global context.


class Identity(nn.Module):
    """No mixer, y = x: the baseline that a useful mixer must beat."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        return x


class Lepe(nn.Module):
    """Local convolution only, y = x + LePE(x): MLLA's mixer if each pixel attended only to itself."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.lepe = DepthwiseConv(dim)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        return x + self.lepe(x)


class LepeMatched(nn.Module):
    """Local mixer with as many parameters as :class:`LinearAttention`.

    ``y = x + a * sigmoid(b) + LePE(x)`` with ``a, b = split(Linear(x))``: the query and key projection becomes a
    pixelwise gated linear unit (arXiv 1612.08083). It is not named ``qk``, so that it never loads attention weights.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.glu = nn.Linear(dim, 2 * dim)
        self.lepe = DepthwiseConv(dim)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        return x + F.glu(self.glu(x), dim=-1) + self.lepe(x)


MIXERS: dict[str, type[nn.Module]] = {
    "linear_attention": LinearAttention,
    "identity": Identity,
    "lepe": Lepe,
    "lepe_matched": LepeMatched,
}


def rope_for(x: Tensor) -> Tensor:
    """Return the RoPE table for a channels-last feature map ``(B, *spatial, C)``; not cached, so never stale."""
    return ops.rope_table(list(x.shape[1:-1]), x.shape[-1], x.device)

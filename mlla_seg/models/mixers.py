"""Token mixers: the part of a block in which pixels see each other.

Contract: ``Mixer(dim, num_heads)``; ``forward(x, rope)`` maps ``(B, *spatial, C)`` to the same shape, where ``rope`` is
the table of :func:`mlla_seg.models.ops.rope_table` for this grid. A new mixer is a module here, its formula and plain
definition in ``ops.py`` unless it is a line, and one line in ``MIXERS``; the tests over ``MIXERS`` then find it.
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
    """MLLA's mixer: linear attention with RoPE, without a value projection, plus a local position encoding (LePE)."""

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


# The controls. Attention of each pixel to itself alone, q.k x / q.k, gives x back: so y = x + LePE(x) is MLLA's mixer
# where no pixel sees beyond its neighbours, and each step of identity, lepe, lepe_matched, linear_attention adds one
# thing: the local convolution, the parameters, the view of the whole image.


class Identity(nn.Module):
    """The block without its mixer, y = x. A mixer that does not beat it does nothing for the task."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        return x


class Lepe(nn.Module):
    """The local convolution alone, y = x + LePE(x): MLLA's mixer if each pixel attended to itself only."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.lepe = DepthwiseConv(dim)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        return x + self.lepe(x)


class LepeMatched(nn.Module):
    """As many parameters as :class:`LinearAttention`, none of which lets a pixel see beyond its neighbours.

    ``y = x + a * sigmoid(b) + LePE(x)`` with ``a, b = split(Linear(x))``: the layer of queries and keys as a gated
    linear unit (arXiv 1612.08083) of each pixel by itself. Not named ``qk``: attention's weights mean nothing here.
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
    """RoPE's table for a channels-last map ``(B, *spatial, C)``; made anew for each stage, so nothing can go stale."""
    return ops.rope_table(list(x.shape[1:-1]), x.shape[-1], x.device)

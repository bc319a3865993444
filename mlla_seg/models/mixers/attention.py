"""Attention over all tokens: MLLA's linear attention, and softmax attention."""

from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models import ops
from mlla_seg.models.mixers.depthwise import depthwise_conv


class LinearAttention(nn.Module):
    """MLLA's mixer: linear attention with RoPE and no value projection, plus a local position encoding (LePE)."""

    def __init__(self, dim: int, num_heads: int, kernel: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qk = nn.Linear(dim, 2 * dim)
        self.lepe = depthwise_conv(dim, kernel)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)  # (B, N, C)
        q, k = self.qk(tokens).chunk(2, dim=-1)
        y = ops.linear_attention(q, k, tokens, rope.flatten(0, -3), self.num_heads)
        return y.view(x.shape) + self.lepe(x)


class Softmax(nn.Module):
    """Softmax attention, quadratic in tokens: ``y_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j`` per head.

    Args:
        dim: Channels C.
        num_heads: Heads.
        kernel: Size of the kernel of ``lepe`` along each axis.
        rope: Rotate queries and keys by their position, as in MLLA.
        lepe: Add a 3x3 depthwise convolution of the values.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel: tuple[int, ...] = (3, 3),
        rope: bool = False,
        lepe: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.rope = rope
        self.qkv = nn.Linear(dim, 3 * dim)
        self.lepe = depthwise_conv(dim, kernel) if lepe else None

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(1, -2)).chunk(3, dim=-1)
        y = v
        if self.rope:
            table = rope.flatten(0, -3)
            q = ops.rotate_pairs(ops.at_least_float32(q), table).to(v.dtype)
            k = ops.rotate_pairs(ops.at_least_float32(k), table).to(v.dtype)
        q, k, y = (ops.heads(t, self.num_heads) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, y).transpose(1, 2).reshape(x.shape)
        return y if self.lepe is None else y + self.lepe(v.view(x.shape))

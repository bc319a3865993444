"""Rank-augmented linear attention (RALA).

Source: "Breaking the Low-Rank Dilemma of Linear Attention", arXiv 2411.07635, and the authors' code.
"""

import torch
from torch import Tensor, nn

from mlla_seg.models import ops
from mlla_seg.models.mixers.depthwise import depthwise_conv


def rank_augmented_attention(q: Tensor, k: Tensor, v: Tensor, rope: Tensor, num_heads: int) -> Tensor:
    """Linear attention whose keys are weighted by their similarity with the mean query, per head.

    With q, k = ELU + 1: ``k_j <- N softmax_j(mean(q) . k_j / sqrt(d)) k_j``, which raises the rank of the sum of
    ``k_j^T v_j``; then ``y_i = q~_i (sum_j k~_j^T v_j) / (q_i . sum_j k_j)`` with rotated q~, k~.

    Args:
        q: Queries before the feature map, ``(B, N, C)``.
        k: Keys before the feature map, ``(B, N, C)``.
        v: Values ``(B, N, C)``.
        rope: Rotations of one head, ``(N, C / (2 h), 2)``.
        num_heads: Number of heads h.
    """
    tokens = v.shape[1]
    q, k = ops.heads(ops.elu_plus_one(q), num_heads), ops.heads(ops.elu_plus_one(k), num_heads)
    v = ops.heads(v, num_heads)
    similarity = k @ q.mean(dim=2, keepdim=True).transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, h, N, 1)
    k = k * tokens * similarity.softmax(dim=2)
    state = ops.rotate_pairs(k, rope).transpose(-1, -2) @ (v / tokens)
    normaliser = q @ k.mean(dim=2, keepdim=True).transpose(-1, -2) + ops.EPSILON
    y = ops.rotate_pairs(q, rope) @ state / normaliser
    return y.transpose(1, 2).flatten(2)


class RALA(nn.Module):
    """Rank-augmented attention and a 5x5 LePE of the values, times a linear gate of the input."""

    def __init__(self, dim: int, num_heads: int, kernel: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkvo = nn.Linear(dim, 4 * dim)
        self.lepe = depthwise_conv(dim, tuple(5 if size > 1 else 1 for size in kernel))

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        q, k, v, gate = self.qkvo(x.flatten(1, -2)).chunk(4, dim=-1)
        table = ops.rope_table(list(x.shape[1:-1]), self.head_dim, x.device).flatten(0, -3)
        args = (ops.at_least_float32(q), ops.at_least_float32(k), ops.at_least_float32(v), table, self.num_heads)
        if torch.jit.is_scripting():
            y = rank_augmented_attention(*args)
        else:
            with ops.full_precision(x.device):
                y = rank_augmented_attention(*args)
        return (y.to(v.dtype).view(x.shape) + self.lepe(v.view(x.shape))) * gate.view(x.shape)

"""Attention weights: how much each pixel contributes to the output of a token mixer at one pixel.

Exact, from the formula of each mixer: ``y_i = sum_j w_ij v_j`` per head. Weights of linear attention with RoPE may be
negative. Mixers that visit pixels in turn have no such weights; see their receptive field instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models import ops
from mlla_seg.models.mixers.attention import LinearAttention, Softmax
from mlla_seg.models.mixers.baseline import Linear
from mlla_seg.models.mixers.inline import InLine
from mlla_seg.models.mixers.nc_ssd import NonCausalSSD
from mlla_seg.models.mixers.rala import RALA


def attention_of(mixer: nn.Module, x: Tensor, rope: Tensor, row: int, column: int) -> Tensor | None:
    """Return the weights ``(h, H, W)`` with which a pixel's output sums the values of all pixels, per head.

    Args:
        mixer: Token mixer.
        x: Its input ``(1, H, W, C)``.
        rope: Its RoPE table.
        row: Row of the pixel.
        column: Column of the pixel.

    Returns:
        The weights, or None for a mixer without any.
    """
    weights = WEIGHTS.get(type(mixer))
    if weights is None or getattr(mixer, "scans", False):
        return None
    _, height, width, _ = x.shape
    with torch.no_grad():
        found = weights(mixer, x.float(), rope, row * width + column)
    return found.unflatten(-1, (height, width))


def _linear_attention(mixer: LinearAttention, x: Tensor, rope: Tensor, i: int) -> Tensor:
    q, k = mixer.qk(x.flatten(1, 2)).chunk(2, dim=-1)
    return _normalised(ops.elu_plus_one(q), ops.elu_plus_one(k), rope, i, mixer.num_heads)


def _linear(mixer: Linear, x: Tensor, rope: Tensor, i: int) -> Tensor:
    tokens = x.flatten(1, 2)
    q, k, _ = mixer.qkv(tokens).split(mixer.sizes, dim=-1)
    table = rope if mixer.rope else None
    return _normalised(ops.elu_plus_one(q), ops.elu_plus_one(k), table, i, mixer.num_heads, mixer.normalisation)


def _normalised(q: Tensor, k: Tensor, rope: Tensor | None, i: int, heads: int, normalise: bool = True) -> Tensor:
    """Return ``q~_i . k~_j / N``, divided by ``q_i . mean(k)``, of features after the feature map."""
    table = None if rope is None else rope.flatten(0, 1)[:, : q.shape[-1] // 2]
    turned_q, turned_k = (x if table is None else ops.rotate_pairs(x, table) for x in (q, k))
    weights = _products(turned_q, turned_k, i, heads) / k.shape[1]
    if not normalise:
        return weights
    return weights / (_products(q, k.mean(dim=1, keepdim=True), i, heads) + ops.EPSILON)


def _products(q: Tensor, k: Tensor, i: int, heads: int) -> Tensor:
    """Return ``q_i . k_j`` per head, ``(h, N)``, of tokens ``(1, N, C)``."""
    return (ops.heads(q[:, i : i + 1], heads) @ ops.heads(k, heads).mT)[0, :, 0]


def _softmax(mixer: Softmax, x: Tensor, rope: Tensor, i: int) -> Tensor:
    q, k, _ = mixer.qkv(x.flatten(1, 2)).chunk(3, dim=-1)
    if mixer.rope:
        q, k = (ops.rotate_pairs(t, rope.flatten(0, 1)) for t in (q, k))
    return (_products(q, k, i, mixer.num_heads) * (q.shape[-1] / mixer.num_heads) ** -0.5).softmax(dim=-1)


def _inline(mixer: InLine, x: Tensor, rope: Tensor, i: int) -> Tensor:
    q, k, _ = mixer.qkv(x.flatten(1, 2)).chunk(3, dim=-1)
    similar = _products(q, k, i, mixer.num_heads) * (q.shape[-1] / mixer.num_heads) ** -0.5
    return (similar - similar.mean(dim=-1, keepdim=True) + 1) / k.shape[1]


def _rala(mixer: RALA, x: Tensor, rope: Tensor, i: int) -> Tensor:
    heads = mixer.num_heads
    q, k, _, _ = (ops.heads(t, heads) for t in mixer.qkvo(x.flatten(1, 2)).chunk(4, dim=-1))
    q, k = ops.elu_plus_one(q), ops.elu_plus_one(k)
    table = ops.rope_table([x.shape[1], x.shape[2]], mixer.head_dim).to(x.device).flatten(0, 1)
    similar = k @ q.mean(dim=2, keepdim=True).mT * mixer.head_dim**-0.5
    k = k * k.shape[2] * similar.softmax(dim=2)
    products = ops.rotate_pairs(q, table)[:, :, i : i + 1] @ ops.rotate_pairs(k, table).mT / k.shape[2]
    normaliser = q[:, :, i : i + 1] @ k.mean(dim=2, keepdim=True).mT + ops.EPSILON
    return (products / normaliser)[0, :, 0]


def _nc_ssd(mixer: NonCausalSSD, x: Tensor, rope: Tensor, i: int) -> Tensor:
    b, c = F.silu(mixer.conv(mixer.select(x))).flatten(1, 2).chunk(2, dim=-1)
    steps = F.softplus(mixer.step(x.flatten(1, 2)) + mixer.step_bias) * mixer.decay.exp()  # (1, N, h)
    return (c[0, i] @ b[0].mT) * steps[0].mT


WEIGHTS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor, int], Tensor]] = {
    LinearAttention: _linear_attention,
    Linear: _linear,
    Softmax: _softmax,
    InLine: _inline,
    RALA: _rala,
    NonCausalSSD: _nc_ssd,
}
"""Weights ``(h, N)`` of the i-th token by mixer: arguments mixer, input ``(1, H, W, C)``, RoPE table and i."""

"""The paper's baseline, plain linear attention, and each design of Mamba or position encoding on top of it.

Source: arXiv 2405.16605, tables 1 and 2. Every switch is one difference between linear attention and the selective
state space model, see :mod:`mlla_seg.models.recurrence`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models import ops
from mlla_seg.models.mixers.depthwise import depthwise_conv
from mlla_seg.models.mixers.directions import merged, sequences
from mlla_seg.models.mixers.selective import initial_decays, initial_steps
from mlla_seg.models.recurrence import causal_normaliser, recurrence


class Linear(nn.Module):
    """Linear attention, ``y_i = q_i (sum_j k_j^T v_j) / (q_i . sum_j k_j)`` per head with q, k = ELU + 1.

    A forget gate needs an order of the tokens: attention is then causal, averaged over the four scan directions of
    :class:`~mlla_seg.models.mixers.selective.SelectiveSSM`. The paper scans once, and does not say whether the
    normaliser forgets too; here it does not.

    Args:
        dim: Channels C.
        num_heads: Heads h, with d = C / h channels each.
        kernel: Size of the kernel of ``lepe`` along each axis.
        input_gate: Multiply the values by time steps ``softplus(low-rank projection)``, ``(B, N, C)``.
        forget_gate: Multiply the state ``(d, C)`` by ``exp(-time steps * exp(decay))`` at each token.
        shortcut: Add the values, scaled per channel.
        normalisation: Divide by ``q_i . sum_j k_j``; without it, by the number of tokens.
        heads: Split channels into heads; without, one head has d query and key channels for all C values, as in a
            state space model.
        rope: Rotate queries and keys by their position; the normaliser uses the unrotated ones, as in MLLA.
        lepe: Add a 3x3 depthwise convolution of the values.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel: tuple[int, ...] = (3, 3),
        input_gate: bool = False,
        forget_gate: bool = False,
        shortcut: bool = False,
        normalisation: bool = True,
        heads: bool = True,
        rope: bool = False,
        lepe: bool = False,
    ) -> None:
        super().__init__()
        keys = dim if heads else dim // num_heads
        self.num_heads = num_heads if heads else 1
        self.sizes = [keys, keys, dim]
        self.scans = forget_gate
        self.rope = rope
        self.input_gate = input_gate
        self.normalisation = normalisation
        self.qkv = nn.Linear(dim, sum(self.sizes))
        self.lepe = depthwise_conv(dim, kernel) if lepe else None
        self.shortcut = nn.Parameter(torch.ones(dim)) if shortcut else None
        self.gates = TimeSteps(dim, like_mamba=forget_gate) if input_gate or forget_gate else None
        self.decay = nn.Parameter(initial_decays(dim, dim // num_heads)) if forget_gate else None

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)
        q, k, v = self.qkv(tokens).split(self.sizes, dim=-1)
        steps = v if self.gates is None else self.gates(tokens)
        if torch.jit.is_scripting():
            y = self.mix(q, k, v, steps, rope)
        else:
            with ops.full_precision(x.device):
                y = self.mix(q, k, v, steps, rope)
        y = y.to(v.dtype)
        return y if self.lepe is None else y + self.lepe(v.view(x.shape))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, steps: Tensor, rope: Tensor) -> Tensor:
        """Return the output ``(B, *spatial, C)``, in float32 or more, of the projections ``(B, N, C)``."""
        spatial = rope.shape[:-2]
        q, k = ops.elu_plus_one(ops.at_least_float32(q)), ops.elu_plus_one(ops.at_least_float32(k))
        v, steps = ops.at_least_float32(v), ops.at_least_float32(steps)
        turned_q, turned_k = q, k
        if self.rope:
            table = rope.flatten(0, -3)[:, : q.shape[-1] // 2]
            turned_q, turned_k = ops.rotate_pairs(q, table), ops.rotate_pairs(k, table)
        values = v * steps if self.input_gate else v
        if self.decay is None:
            y = self.of_all(q, k, turned_q, turned_k, values).unflatten(1, spatial)
        else:
            q, k, turned_q, turned_k, values, steps = [
                sequences(part.unflatten(1, spatial)).flatten(0, 1)
                for part in (q, k, turned_q, turned_k, values, steps)
            ]
            kept = self.kept(steps)
            y = recurrence(turned_q, turned_k, values, self.num_heads, None, kept, None, False)
            total = causal_normaliser(q, k, self.num_heads, y.shape[-1]) + ops.EPSILON
            y = y / total if self.normalisation else y / y.shape[1]
            y = merged(y.unflatten(0, (-1, 4)), spatial[0], spatial[1]) / 4
        if self.shortcut is not None:
            y = y + (self.shortcut * v).unflatten(1, spatial)
        return y

    def kept(self, steps: Tensor) -> Tensor:
        """Return the forget gates ``(B, N, d, C)`` of time steps ``(B, N, C)``."""
        assert self.decay is not None
        decay = torch.exp(self.decay.to(steps.dtype)).view(steps.shape[-1], -1)
        return torch.exp(-steps.unsqueeze(2) * decay.T)

    @torch.jit.ignore
    def forget_gates(self, x: Tensor) -> Tensor:
        """Return the forget gates ``(B, N, d, C)`` of ``(B, H, W, C)``."""
        assert self.gates is not None
        return self.kept(self.gates(x.flatten(1, 2)))

    def of_all(self, q: Tensor, k: Tensor, turned_q: Tensor, turned_k: Tensor, v: Tensor) -> Tensor:
        """Return attention ``(B, N, C)`` to all tokens."""
        state = ops.heads(turned_k, self.num_heads).transpose(-1, -2) @ (ops.heads(v, self.num_heads) / v.shape[1])
        y = ops.heads(turned_q, self.num_heads) @ state
        if self.normalisation:
            mean = ops.heads(k.mean(dim=1, keepdim=True), self.num_heads)
            y = y / (ops.heads(q, self.num_heads) @ mean.transpose(-1, -2) + ops.EPSILON)
        return y.transpose(1, 2).flatten(2)


class TimeSteps(nn.Module):
    """Positive time steps ``(B, N, C)`` of tokens ``(B, N, C)``: softplus of a projection of rank C / 16.

    Args:
        dim: Channels C.
        like_mamba: Start from 0.001 to 0.1, as Mamba does, so that the forget gate is near 1; otherwise from 1.
    """

    def __init__(self, dim: int, like_mamba: bool) -> None:
        super().__init__()
        self.down = nn.Linear(dim, -(-dim // 16), bias=False)
        self.up = nn.Linear(-(-dim // 16), dim, bias=False)
        bias = initial_steps(dim) if like_mamba else torch.full((dim,), math.log(math.e - 1))
        self.bias = nn.Parameter(bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.softplus(ops.at_least_float32(self.up(self.down(tokens))) + self.bias)

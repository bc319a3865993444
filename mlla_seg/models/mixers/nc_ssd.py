"""Non-causal state space duality, the mixer of VSSD.

Source: "VSSD: Vision Mamba with Non-Causal State Space Duality", arXiv 2407.18559, equation 10, and the authors' code.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models import ops
from mlla_seg.models.mixers.depthwise import depthwise_conv
from mlla_seg.models.mixers.selective import initial_steps

STATE = 64
"""State size d of the published networks."""


def non_causal_ssd(x: Tensor, weights: Tensor, b: Tensor, c: Tensor, shortcut: Tensor) -> Tensor:
    """Return ``y_i = C_i sum_j B_j^T (m_j x_j) + D x_i`` per head; every token sees all, without decay.

    The sum is not divided by the number of tokens, as published: a LayerNorm follows.

    Args:
        x: Inputs ``(B, N, C)``.
        weights: m, ``(B, N, h)``, positive.
        b: Input projection ``(B, N, d)``, shared by all heads.
        c: Output projection ``(B, N, d)``, shared by all heads.
        shortcut: D, ``(h)``.
    """
    heads = ops.heads(x, weights.shape[-1])  # (B, h, N, C / h)
    state = b.unsqueeze(1).transpose(-1, -2) @ (heads * weights.transpose(1, 2).unsqueeze(-1))  # (B, h, d, C / h)
    y = c.unsqueeze(1) @ state + shortcut[:, None, None] * heads
    return y.transpose(1, 2).flatten(2)


class NonCausalSSD(nn.Module):
    """Non-causal SSD: B and C from a projection and a 3x3 depthwise convolution, then a LayerNorm.

    The weights are m = Delta exp(A_log), with time steps Delta per token and head.
    """

    def __init__(self, dim: int, num_heads: int, kernel: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        self.select = nn.Linear(dim, 2 * STATE, bias=False)
        self.conv = depthwise_conv(2 * STATE, kernel)
        self.step = nn.Linear(dim, num_heads, bias=False)
        self.step_bias = nn.Parameter(initial_steps(num_heads))
        self.decay = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        self.shortcut = nn.Parameter(torch.ones(num_heads))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)
        b, c = F.silu(self.conv(self.select(x))).flatten(1, -2).chunk(2, dim=-1)
        steps = F.softplus(ops.at_least_float32(self.step(tokens)) + self.step_bias)
        weights = steps * self.decay.exp()
        args = (ops.at_least_float32(tokens), weights, ops.at_least_float32(b), ops.at_least_float32(c), self.shortcut)
        if torch.jit.is_scripting():
            y = non_causal_ssd(*args)
        else:
            with ops.full_precision(x.device):
                y = non_causal_ssd(*args)
        return self.norm(y.to(x.dtype)).view(x.shape)

"""Selective state space model (Mamba, arXiv 2312.00752) on images, in plain torch.

Source: the cross-scan of VMamba (arXiv 2401.10166): one model per scan direction, whose outputs are added.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models.mixers.directions import DIRECTIONS, merged, sequences
from mlla_seg.models.ops import at_least_float32, full_precision
from mlla_seg.models.recurrence import selective_ssm

STATE = 16
"""State size d of Mamba and of the paper."""
SHORTEST, LONGEST = 1e-3, 1e-1
"""Range of the initial time steps, drawn evenly on a logarithmic scale, as in Mamba."""


def initial_steps(*shape: int) -> Tensor:
    """Return biases whose softplus is a time step from ``SHORTEST`` to ``LONGEST``."""
    steps = torch.exp(torch.rand(shape) * math.log(LONGEST / SHORTEST) + math.log(SHORTEST))
    return steps + torch.log(-torch.expm1(-steps))  # inverse of softplus


def initial_decays(*shape: int) -> Tensor:
    """Return log(-A) for A = -1, -2, ... along the last axis (S4D-real), flattened.

    One axis, because weight decay leaves parameters of one axis out, as Mamba's training does for A.
    """
    return torch.log(torch.arange(1.0, shape[-1] + 1)).expand(shape).flatten().clone()


class SelectiveSSM(nn.Module):
    """Selective SSM along four scan directions, followed by a LayerNorm, as in VMamba; ``num_heads`` has no effect."""

    scans = True

    def __init__(self, dim: int, num_heads: int, kernel: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        rank = -(-dim // 16)
        self.select = nn.Parameter(torch.randn(DIRECTIONS, dim, rank + 2 * STATE) * 0.02)
        self.step = nn.Parameter(torch.randn(DIRECTIONS, rank, dim) * rank**-0.5)
        self.step_bias = nn.Parameter(initial_steps(DIRECTIONS * dim))
        self.decay = nn.Parameter(initial_decays(DIRECTIONS, dim, STATE))
        self.shortcut = nn.Parameter(torch.ones(dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            y = self.scan(at_least_float32(x))
        else:
            with full_precision(x.device):
                y = self.scan(at_least_float32(x))
        return self.norm(y.to(x.dtype))

    def scan(self, x: Tensor) -> Tensor:
        """Run the model along all directions, ``(B, H, W, C)`` to the same shape, in the precision of ``x``."""
        tokens = sequences(x)  # (B, 4, N, C)
        steps, a, b, c = self.selected(tokens)
        y = selective_ssm(
            tokens.flatten(0, 1),
            steps.flatten(0, 1),
            a.repeat(len(x), 1, 1, 1),
            b.flatten(0, 1),
            c.flatten(0, 1),
            self.shortcut.to(x.dtype),
        )
        return merged(y.unflatten(0, tokens.shape[:2]), x.shape[1], x.shape[2])

    def selected(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return time steps ``(B, 4, N, C)``, A ``(4, 1, C, d)``, and B and C ``(B, 4, N, d)``, of ``(B, 4, N, C)``."""
        directions, rank, dim = self.step.shape
        size = self.decay.shape[0] // (directions * dim)
        chosen = tokens @ self.select.to(tokens.dtype)
        steps = chosen[..., :rank] @ self.step.to(tokens.dtype) + self.step_bias.view(directions, 1, dim)
        a = -torch.exp(self.decay.to(tokens.dtype)).view(directions, 1, dim, size)
        return F.softplus(steps), a, chosen[..., rank : rank + size], chosen[..., rank + size :]

    @torch.jit.ignore
    def forget_gates(self, x: Tensor) -> Tensor:
        """Return the forget gates ``(B, 4, N, d, C)`` of ``(B, H, W, C)``."""
        steps, a, _, _ = self.selected(sequences(at_least_float32(x)))
        return torch.exp(steps.unsqueeze(3) * a.mT)

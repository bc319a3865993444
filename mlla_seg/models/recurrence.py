"""The formula of the paper: linear attention and the selective state space model are one recurrence.

With tokens i = 1 .. N, queries Q, keys K, values V (arXiv 2405.16605, equations 11 and 12)::

    S_i = A_i * S_{i-1} + K_i^T (D_i * V_i)          state (d, C), * elementwise
    Z_i = Z_{i-1} + K_i                              normaliser
    y_i = Q_i S_i / (Q_i Z_i) + s * V_i

=================  =======================  ==========================
                   linear attention         selective state space model
=================  =======================  ==========================
input gate D_i     1                        the time step Delta_i
forget gate A_i    1                        exp(Delta_i A)
shortcut s         0                        D
normaliser         Q_i Z_i                  1
heads              h                        1
Q, K, V            phi(q), phi(k), v        C, B, x
=================  =======================  ==========================

The sixth difference, the block around the mixer, is in :mod:`mlla_seg.models.blocks`.

Dimensions: d key channels per head, C value channels. With h heads, ``q`` and ``k`` have h d channels, and each head
reads C / h channels of ``v``. Gates act on the state of all heads, ``(d, C)``.
"""

import math
from typing import Any

import torch
from torch import Tensor

DISCRETISATIONS = ("zoh", "paper")
"""Discretisations of B: zero-order hold, or the first-order approximation Delta B of Mamba and the paper."""
BUSY_CPU, BUSY_GPU = 2**12, 2**21
"""Elements of a step that keep a processor busy; more cost it as much more time."""


def recurrence_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int = 1,
    input_gate: Tensor | None = None,
    forget_gate: Tensor | None = None,
    shortcut: Tensor | None = None,
    normalised: bool = True,
) -> Tensor:
    """Definition of the unified recurrence, token by token; every switch of the paper is an argument.

    Args:
        q: Queries after the feature map, ``(B, N, h d)``.
        k: Keys after the feature map, ``(B, N, h d)``; positive if ``normalised``.
        v: Values ``(B, N, C)``.
        num_heads: Number of heads h.
        input_gate: D, broadcastable to ``(B, N, d, C)``; None for 1.
        forget_gate: A, broadcastable to ``(B, N, d, C)``, from 0 (forget all) to 1; None for 1.
        shortcut: s, broadcastable to ``(B, N, C)``; None for 0.
        normalised: Divide by Q Z.

    Returns:
        Outputs ``(B, N, C)``; the i-th depends on tokens 1 .. i.
    """
    batch, tokens, channels = v.shape
    size = (batch, tokens, q.shape[-1] // num_heads, channels)
    q, k = _spread(q, num_heads, channels), _spread(k, num_heads, channels)
    into = torch.ones_like(v[:, :, None]) if input_gate is None else input_gate
    kept = torch.ones_like(v[:, :, None]) if forget_gate is None else forget_gate
    into, kept = into.expand(size), kept.expand(size)
    state, total = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0])
    outputs = []
    for i in range(tokens):
        state = kept[:, i] * state + k[:, i] * into[:, i] * v[:, i, None]
        total = total + k[:, i]
        y = (q[:, i] * state).sum(dim=1)
        outputs.append(y / (q[:, i] * total).sum(dim=1) if normalised else y)
    result = torch.stack(outputs, dim=1)
    return result if shortcut is None else result + shortcut * v


def recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int = 1,
    input_gate: Tensor | None = None,
    forget_gate: Tensor | None = None,
    shortcut: Tensor | None = None,
    normalised: bool = True,
) -> Tensor:
    """Parallel form of :func:`recurrence_reference`: time and memory are linear in N, about 2 sqrt(N) steps in turn."""
    channels = v.shape[-1]
    inputs = _spread(k, num_heads, channels) * v.unsqueeze(2)
    if input_gate is not None:
        inputs = inputs * input_gate
    state = inputs.cumsum(dim=1) if forget_gate is None else gated_scan(forget_gate.expand_as(inputs), inputs)
    y = (_spread(q, num_heads, channels) * state).sum(dim=2)
    if normalised:
        y = y / causal_normaliser(q, k, num_heads, channels)
    return y if shortcut is None else y + shortcut * v


def causal_normaliser(q: Tensor, k: Tensor, num_heads: int, channels: int) -> Tensor:
    """Return Q_i Z_i of queries and keys ``(B, N, h d)``, repeated for the values of each head: ``(B, N, C)``."""
    total = (q * k.cumsum(dim=1)).unflatten(-1, (num_heads, -1)).sum(dim=-1)
    return total.repeat_interleave(channels // num_heads, dim=-1)


def _spread(x: Tensor, num_heads: int, channels: int) -> Tensor:
    """Repeat the queries or keys of each head, ``(B, N, h d)``, for its value channels: ``(B, N, d, C)``."""
    x = x.unflatten(-1, (num_heads, -1)).transpose(-1, -2)  # (B, N, d, h)
    return x.repeat_interleave(channels // num_heads, dim=-1)


def selective_ssm(
    x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None, discretisation: str = "paper"
) -> Tensor:
    """Selective state space model (arXiv 2312.00752) as a setting of the unified recurrence.

    Per channel, with the diagonal A of that channel: ``h' = A h + B x``, ``y = C h + D x``, discretised with the time
    step Delta: A becomes exp(Delta A), and B becomes (exp(Delta A) - 1) / A B by zero-order hold, or Delta B.

    Args:
        x: Inputs ``(B, N, C)``.
        delta: Time steps ``(B, N, C)``, positive.
        a: Diagonal of A, ``(C, d)`` or ``(B, 1, C, d)``, negative.
        b: Input projection ``(B, N, d)``.
        c: Output projection ``(B, N, d)``.
        d: Shortcut ``(C)``.
        discretisation: A name in ``DISCRETISATIONS``.
    """
    steps = delta.unsqueeze(2)  # (B, N, 1, C)
    exponents = steps * a.mT  # (B, N, d, C)
    gate = torch.expm1(exponents) / a.mT if discretisation == "zoh" else steps
    return recurrence(c, b, x, 1, gate, torch.exp(exponents), d, normalised=False)


def gated_scan(gates: Tensor, inputs: Tensor) -> Tensor:
    """Return h with ``h_i = gates_i * h_{i-1} + inputs_i`` along dimension 1 of ``(B, N, ...)``.

    The backward pass is the same scan in reverse and needs only the gates and the result.
    """
    if torch.jit.is_scripting():
        return _scan(gates, inputs)
    return _GatedScan.apply(gates, inputs, BUSY_CPU if inputs.device.type == "cpu" else BUSY_GPU)


def _scan(gates: Tensor, inputs: Tensor, busy: int = BUSY_CPU) -> Tensor:
    """Scan up to sqrt(N) chunks of tokens side by side, then carry the last state from chunk to chunk.

    As few chunks as give ``busy`` elements per step: with one chunk, each element is read once.
    """
    tokens = inputs.shape[1]
    chunks = max(1, min(int(math.sqrt(tokens)), busy * tokens // inputs.numel()))
    length = (tokens + chunks - 1) // chunks
    missing = chunks * length - tokens
    if missing:
        shape = list(inputs.shape)
        shape[1] = missing
        gates = torch.cat((gates, gates.new_ones(shape)), dim=1)
        inputs = torch.cat((inputs, inputs.new_zeros(shape)), dim=1)
    gates, inputs = gates.unflatten(1, (chunks, length)), inputs.unflatten(1, (chunks, length))
    state = torch.empty_like(inputs)
    state[:, :, 0] = inputs[:, :, 0]
    for i in range(1, length):
        state[:, :, i] = torch.addcmul(inputs[:, :, i], gates[:, :, i], state[:, :, i - 1])
    if chunks > 1:
        decay = gates.cumprod(dim=2)  # from the start of the chunk
        for i in range(1, chunks):
            state[:, i] += decay[:, i] * state[:, i - 1, -1:]
    return state.flatten(1, 2)[:, :tokens]


class _GatedScan(torch.autograd.Function):
    """:func:`_scan`; gradients are g_i = grad_i + gates_{i+1} * g_{i+1} of inputs and g_i * h_{i-1} of gates."""

    @staticmethod
    def forward(gates: Tensor, inputs: Tensor, busy: int) -> Tensor:
        return _scan(gates, inputs, busy)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.busy = inputs[2]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gates, state = ctx.saved_tensors
        following = gates.flip(1).roll(1, 1)  # the gate of the first step is not used
        grad_inputs = _scan(following, grad.flip(1), ctx.busy).flip(1)
        grad_gates = torch.zeros_like(grad_inputs)
        torch.mul(grad_inputs[:, 1:], state[:, :-1], out=grad_gates[:, 1:])
        return grad_gates, grad_inputs, None

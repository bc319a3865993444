"""Operations of MLLA as functions on tensors, without parameters.

Source: "Demystify Mamba in Vision: A Linear Attention Perspective" (arXiv 2405.16605). Notation: B batch, N tokens (the
product of the spatial sizes), C channels, h heads, d = C / h channels per head, A spatial axes (2 for images, 3 for
volumes), K = floor(C / (2 A)) rotation frequencies per axis.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added to the attention normaliser q . mean(k), as in the authors' code."""

ROPE_BASE = 10000.0
"""Frequencies of the rotary position encoding are ROPE_BASE ** (-t / K), t = 0 .. K - 1."""


def to_channels_last(x: Tensor) -> Tensor:
    """Permute ``(B, C, *spatial)`` to ``(B, *spatial, C)``."""
    return x.movedim(1, x.ndim - 1)  # torch's older ONNX exporter writes invalid files for negative axes


def to_channels_first(x: Tensor) -> Tensor:
    """Permute ``(B, *spatial, C)`` to ``(B, C, *spatial)``."""
    return x.movedim(x.ndim - 1, 1)


def channels_last_memory(x: Tensor, axes: int) -> Tensor:
    """Return ``(B, C, *spatial)`` with its channels last in memory; ``axes`` is the number of spatial axes."""
    if axes == 3:
        return x.contiguous(memory_format=torch.channels_last_3d)
    return x.contiguous(memory_format=torch.channels_last)


def unfold_channels(x: Tensor, scale: list[int]) -> Tensor:
    """Enlarge each axis by its scale with values from the channels, as a pixel shuffle does.

    Args:
        x: ``(B, *spatial, p C)`` with p the product of the scales; channels are in the order (offsets by axis, C).
        scale: Factor of each axis.

    Returns:
        ``(B, *(spatial * scale), C)``.
    """
    axes = len(scale)
    x = x.unflatten(-1, scale + [-1])  # noqa: RUF005 - TorchScript
    order = [0]
    for axis in range(axes):
        order += [1 + axis, 1 + axes + axis]
    x = x.permute(order + [1 + 2 * axes])  # noqa: RUF005
    for axis in range(axes):
        x = x.flatten(1 + axis, 2 + axis)
    return x


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context that disables autocast, for sums that need float32; a no-op on devices without autocast."""
    if device.type in ("cpu", "cuda") or torch.amp.is_autocast_available(device.type):  # not traceable by compilers
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """Cast half precision to float32; float32 and float64 are unchanged."""
    return x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x


def elu_plus_one(x: Tensor) -> Tensor:
    """Positive feature map ELU(x) + 1, accurate in every precision.

    ``elu(x) + 1`` rounds to 0 below -6.25 in bfloat16 and below -16.6 in float32, which would make attention divide
    zero by epsilon. Computed as max(x, 0) + exp(min(x, 0)), where one term is always 0 or 1, it keeps its relative
    precision. Only the result is stored for the backward pass.
    """
    if torch.jit.is_scripting():
        return elu_plus_one_reference(x)
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return elu_plus_one_reference(x)
    return _EluPlusOne.apply(x)


def elu_plus_one_reference(x: Tensor) -> Tensor:
    """Reference implementation of :func:`elu_plus_one`."""
    positive = torch.relu(x)
    return positive + torch.exp(x - positive)  # not clamp: its gradient at 0 differs between torch versions


class _EluPlusOne(torch.autograd.Function):
    """ELU(x) + 1, whose derivative (1 above zero, exp(x) below) is the minimum of the result and 1."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return elu_plus_one_reference(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return grad * result.clamp(max=1)


def rope_table(spatial: list[int], dim: int, device: torch.device | None = None, base: float = ROPE_BASE) -> Tensor:
    """Return the cosines and sines of the rotary position encoding on a grid of any size.

    Channel pairs (0, 1), (2, 3), ... are rotated: the first K pairs by (index along axis 0) * theta, the next K by
    (index along axis 1) * theta, and so on; pairs that are left over are not rotated. Always float32: in bfloat16 the
    angles are off by half a radian at row 256.

    Args:
        spatial: Sizes of the grid axes, such as ``[H, W]`` or ``[D, H, W]``.
        dim: Channels C, an even number of at least twice the number of axes.
        device: Device of the table.
        base: Base of the frequencies.

    Returns:
        Cosines and sines, ``(*spatial, dim / 2, 2)``.

    Raises:
        ValueError: ``dim`` is odd, or too small for a pair for every axis.
    """
    axes = len(spatial)
    if dim % 2 or dim < 2 * axes:
        raise ValueError(
            f"Rotary position encoding on {axes} axes needs an even number of channels, {2 * axes} or more, got {dim}."
        )
    frequencies = dim // (2 * axes)
    theta = base ** (-torch.arange(frequencies, dtype=torch.float32, device=device) / frequencies)
    turns = []
    for axis, size in enumerate(spatial):
        angle = torch.arange(size, dtype=torch.float32, device=device)[:, None] * theta  # (size, K)
        shape = [1] * axes + [frequencies, 2]
        shape[axis] = size
        turn = torch.stack((angle.cos(), angle.sin()), dim=-1)
        turns.append(turn.view(shape).expand(spatial + [frequencies, 2]))  # noqa: RUF005 - TorchScript
    left = dim // 2 - axes * frequencies
    if left > 0:
        still = torch.tensor([1.0, 0.0], dtype=torch.float32, device=device)
        turns.append(still.expand(spatial + [left, 2]))  # noqa: RUF005
    return torch.cat(turns, dim=-2)


def rotate_pairs(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate the channel pairs (0, 1), (2, 3), ... of ``x``, ``(..., C)``, by a table ``(..., C / 2, 2)``.

    Eager mode uses a single complex product; recorded graphs use real arithmetic, which compilers and inference engines
    support better.
    """
    if torch.jit.is_scripting():
        return rotate_pairs_reference(x, rope)
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return rotate_pairs_reference(x, rope)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.view_as_complex(rope)).flatten(-2)


def rotate_pairs_reference(x: Tensor, rope: Tensor) -> Tensor:
    """Reference implementation of :func:`rotate_pairs`, in real arithmetic."""
    cos, sin = rope.unbind(-1)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, rope: Tensor, num_heads: int) -> Tensor:
    """MLLA's linear attention with rotary position encoding, linear in the number of tokens.

    For each head, with phi = ELU + 1 and rotated features phi~:
    ``y_i = phi~(q_i) (sum_j phi~(k_j)^T v_j / N) / (phi(q_i) . mean_j phi(k_j) + 1e-6)``. The rotation spans all C
    channels before they are split into heads; the normaliser uses the unrotated features.

    Sums over tokens run in float32 for inputs of any precision: in bfloat16 they would lose a constant fraction, and in
    float16 they would overflow.

    Args:
        q: Queries before the feature map, ``(B, N, C)``.
        k: Keys before the feature map, ``(B, N, C)``.
        v: Values, ``(B, N, C)``.
        rope: Table of :func:`rope_table`, flattened to ``(N, C / 2, 2)``.
        num_heads: Number of heads h, a divisor of C.

    Returns:
        Output ``(B, N, C)`` in the dtype of ``v``.
    """
    if torch.jit.is_scripting():  # no autocast to disable
        state, mean = attention_state(k, v, rope, num_heads, v.shape[1])
        return attend(q, state, mean, rope, num_heads).to(v.dtype)
    with full_precision(v.device):
        state, mean = attention_state(k, v, rope, num_heads, v.shape[1])
        return attend(q, state, mean, rope, num_heads).to(v.dtype)


def attention_state(k: Tensor, v: Tensor, rope: Tensor, num_heads: int, total: int) -> tuple[Tensor, Tensor]:
    """Summarise ``n`` of the ``total`` tokens for attention; the sums over parts of an image are those of the whole.

    Returns:
        ``sum_j phi~(k_j)^T v_j / total``, ``(B, h, d, d)``, and ``sum_j phi(k_j) / total``, ``(B, 1, C)``; float32.
    """
    k, v = elu_plus_one(at_least_float32(k)), at_least_float32(v)
    state = heads(rotate_pairs(k, rope), num_heads).transpose(-1, -2) @ (heads(v, num_heads) / total)
    return state, k.sum(dim=1, keepdim=True) / total


def attend(q: Tensor, state: Tensor, mean: Tensor, rope: Tensor, num_heads: int, epsilon: float = EPSILON) -> Tensor:
    """Return the output ``(B, n, C)``, float32, of ``n`` queries, given the results of :func:`attention_state`."""
    q = elu_plus_one(at_least_float32(q))  # below, no .mT, which torch's older ONNX exporter does not support
    normaliser = heads(q, num_heads) @ heads(mean, num_heads).transpose(-1, -2) + epsilon  # (B, h, n, 1)
    y = heads(rotate_pairs(q, rope), num_heads) @ state / normaliser
    return y.transpose(1, 2).flatten(2)


def heads(x: Tensor, num_heads: int) -> Tensor:
    """Split the channels of tokens into heads: ``(B, N, C)`` to ``(B, h, N, d)``."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def linear_attention_reference(q: Tensor, k: Tensor, v: Tensor, spatial: tuple[int, ...], num_heads: int) -> Tensor:
    """Reference implementation of :func:`linear_attention`: all N x N weights in float64, complex rotations.

    Args:
        q: Queries before the feature map, ``(B, N, C)``.
        k: Keys before the feature map, ``(B, N, C)``.
        v: Values, ``(B, N, C)``.
        spatial: Sizes of the grid whose points, in row-major order, are the N tokens.
        num_heads: Number of heads h.

    Returns:
        Output ``(B, N, C)`` in float64.
    """
    q, k, v = (x.double() for x in (q, k, v))
    n, dim = q.shape[1:]
    q = torch.nn.functional.elu(q) + 1
    k = torch.nn.functional.elu(k) + 1
    frequencies = dim // (2 * len(spatial))
    theta = ROPE_BASE ** (-torch.arange(frequencies, dtype=torch.float64) / frequencies)
    positions = torch.cartesian_prod(*(torch.arange(size) for size in spatial)).reshape(n, len(spatial))
    angles = (positions[:, :, None] * theta).flatten(1)  # (N, A K)
    angles = torch.nn.functional.pad(angles, (0, dim // 2 - angles.shape[1]))  # (N, C / 2)
    turn = torch.polar(torch.ones_like(angles), angles)
    q_rotated, k_rotated = (
        torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)
        for x in (q, k)
    )
    outputs = []
    for channels in torch.arange(dim).chunk(num_heads):
        numerator = q_rotated[..., channels] @ k_rotated[..., channels].transpose(1, 2)  # (B, N, N)
        denominator = (q[..., channels] @ k[..., channels].transpose(1, 2)).mean(dim=2, keepdim=True) + EPSILON
        outputs.append(numerator / n / denominator @ v[..., channels])
    return torch.cat(outputs, dim=-1)


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth (arXiv 1603.09382): drop a residual branch for whole samples and rescale the rest."""
    if rate == 0.0 or not training:
        return x
    keep = 1.0 - rate
    mask = x.new_empty([x.shape[0]] + [1] * (x.ndim - 1)).bernoulli_(keep)  # no unpacking in TorchScript
    return x * mask / keep

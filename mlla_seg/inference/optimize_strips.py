"""The same network strip by strip: a few thousand pixels at a time stay in a processor's cache and take little memory.

For evaluation on processors. Convolutions that see a pixel's neighbours run over whole maps where these are narrow, and
with the rows they need where they are wide; everything else sees its own pixel alone. The networks know nothing of it:
:func:`in_strips` puts methods over theirs, and the tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models.decoders import MLLAUNetDecoder, Upsample
from mlla_seg.models.mixers import LinearAttention
from mlla_seg.models.mlla import Block, Downsample
from mlla_seg.models.ops import at_least_float32, attend, attention_state, full_precision
from mlla_seg.models.segmenter import Segmenter

PIXELS = 4096
"""In a strip. A quarter of it or four times as much cost a few per cent of the time, see benchmarks."""


def in_strips(network: nn.Module) -> None:
    """Lets a network that is only evaluated compute strip by strip, in place; its outputs stay the same."""
    for module in network.modules():
        for kind, (name, method) in PARTS.items():
            if isinstance(module, kind):
                setattr(module, name, partial(method, module))


def strips(size: int, step: int) -> Iterator[slice]:
    """``range(size)`` in slices of at least one and at most ``step``."""
    step = max(1, step)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _block(block: Block, x: Tensor, rope: Tensor) -> Tensor:
    x = (x + block.cpe1(x)).contiguous()
    tokens = x.flatten(0, 2)  # the same memory
    u = _by_strips(lambda strip: block.in_proj(block.norm1(strip)), tokens).view(x.shape)
    u = block.mixer(F.silu(block.conv(u), inplace=True), rope).flatten(0, 2)
    for part in strips(len(tokens), PIXELS):
        gate = F.silu(block.gate_proj(block.norm1(tokens[part])), inplace=True)
        tokens[part] += block.out_proj(u[part] * gate)
    x += block.cpe2(x)
    for part in strips(len(tokens), PIXELS):
        tokens[part] += block.mlp(block.norm2(tokens[part]))
    return x


def _by_strips(function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """``function`` of tokens ``(n, C)``, each of which it sees alone."""
    first, *others = strips(len(tokens), PIXELS)
    result = function(tokens[first])
    if not others:
        return result
    results = result.new_empty(len(tokens), result.shape[1])
    results[first] = result
    for part in others:
        results[part] = function(tokens[part])
    return results


def _attention(mixer: LinearAttention, x: Tensor, rope: Tensor) -> Tensor:
    tokens = x.flatten(1, -2)  # (B, N, C)
    batch, total, _ = tokens.shape
    rope = rope.flatten(0, -3)
    (q_weight, k_weight), (q_bias, k_bias) = mixer.qk.weight.chunk(2), mixer.qk.bias.chunk(2)
    state: Any = 0
    mean: Any = 0
    for part in strips(total, PIXELS // batch):
        k = F.linear(tokens[:, part], k_weight, k_bias)
        with full_precision(x.device):
            more = attention_state(k, tokens[:, part], rope[part], mixer.num_heads, total)
        state, mean = state + more[0], mean + more[1]
    y = mixer.lepe(x).contiguous()
    for part in strips(total, PIXELS // batch):
        q = F.linear(tokens[:, part], q_weight, q_bias)
        with full_precision(x.device):
            y.flatten(1, -2)[:, part] += attend(q, state, mean, rope[part], mixer.num_heads)
    return y


def _downsample(module: Downsample, x: Tensor) -> Tensor:
    if module.conv.stride[0] == 1:
        return type(module).forward(module, x)
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    height, width = x.shape[-2:]
    pieces = []
    for part in strips(height // 2, PIXELS // (2 * width)):  # output rows; each needs three, from 2 row - 1 on
        above = int(part.start == 0)  # where the first of the three is one of zeros
        rows = F.relu(module.expand(x[..., 2 * part.start - 1 + above : 2 * part.stop, :]), inplace=True)
        rows = F.pad(rows, (0, 0, above, 0)) if above else rows
        rows = F.conv2d(rows, module.conv.weight, module.conv.bias, 2, (0, 1), groups=rows.shape[1])
        pieces.append(module.reduce(F.relu(rows, inplace=True)))
    return torch.cat(pieces, dim=-2)


def _upsample(module: Upsample, x: Tensor) -> Tensor:
    height, width = x.shape[1:3]
    pieces = []
    for part in strips(height, PIXELS // width):
        rows = x[:, part.start : part.stop + 1].movedim(-1, 1)  # odd rows of the output are between two of the input
        rows = F.relu(module.expand(rows), inplace=True)
        with full_precision(x.device):  # in half precision processors have no fast one
            rows = module.conv(at_least_float32(rows))[..., : 2 * (part.stop - part.start), :]
        pieces.append(module.norm(module.reduce(rows).movedim(1, -1)))
    return torch.cat(pieces, dim=1)


def _classify(segmenter: Segmenter, x: Tensor) -> Tensor:
    if not isinstance(segmenter.decoder, MLLAUNetDecoder):
        return type(segmenter).classify(segmenter, x)
    step = PIXELS // (4 * x.shape[2])
    return torch.cat([type(segmenter).classify(segmenter, x[:, part]) for part in strips(x.shape[1], step)], dim=-2)


PARTS: dict[type[nn.Module], tuple[str, Callable[..., Any]]] = {
    Block: ("forward", _block),
    LinearAttention: ("forward", _attention),
    Downsample: ("forward", _downsample),
    Upsample: ("forward", _upsample),
    Segmenter: ("classify", _classify),
}
"""Which method of which module gets which other one."""

"""Strip-wise inference on CPUs: a few thousand pixels at a time stay in the cache and need little memory.

Spatial convolutions run on whole feature maps with few channels, and on strips with the necessary neighbouring rows
where channels are many; all other operations are pixelwise. :func:`in_strips` overrides methods of instances; network
classes are unaffected, and the tests compare both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models.blocks import Block
from mlla_seg.models.decoders import MLLAUNetDecoder, Upsample
from mlla_seg.models.mixers import LinearAttention
from mlla_seg.models.mlla import Downsample
from mlla_seg.models.ops import attend, attention_state, full_precision
from mlla_seg.models.segmenter import Segmenter

PIXELS = 4096
"""Pixels per strip. A quarter or four times as many cost a few per cent more time, see benchmarks."""


def in_strips(network: nn.Module) -> bool:
    """Make a network compute strip by strip, in place; for evaluation only, outputs are unchanged.

    Returns:
        Whether a part of it did not do so before.
    """
    changed = False
    for module in network.modules():
        for kind, (name, method) in PARTS.items():
            if isinstance(module, kind) and name not in vars(module):
                setattr(module, name, partial(method, module))
                changed = True
    return changed


def strips(size: int, step: int) -> Iterator[slice]:
    """Split ``range(size)`` into slices of at most ``step`` (at least 1)."""
    step = max(1, step)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _block(block: Block, x: Tensor, rope: Tensor) -> Tensor:
    x = (x + block.cpe1(x)).contiguous()
    tokens = x.flatten(0, -2)  # a view
    u = _by_strips(lambda strip: block.in_proj(block.norm1(strip)), tokens).view(x.shape)
    u = block.mixer(F.silu(block.conv(u), inplace=True), rope).flatten(0, -2)
    for part in strips(len(tokens), PIXELS):
        gate = F.silu(block.gate_proj(block.norm1(tokens[part])), inplace=True)
        tokens[part] += block.out_proj(u[part] * gate)
    x += block.cpe2(x)
    for part in strips(len(tokens), PIXELS):
        tokens[part] += block.mlp(block.norm2(tokens[part]))
    return x


def _by_strips(function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """Apply a pixelwise ``function`` to tokens ``(n, C)`` strip by strip."""
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
    if module.conv.stride != (2, 2):
        return type(module).forward(module, x)
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    height, width = x.shape[-2:]
    pieces = []
    for part in strips(height // 2, PIXELS // (2 * width)):  # output rows; row r needs 2r - 1 to 2r + 1
        above = int(part.start == 0)  # the first of the three rows is zero padding
        rows = F.relu(module.expand(x[..., 2 * part.start - 1 + above : 2 * part.stop, :]), inplace=True)
        rows = F.pad(rows, (0, 0, above, 0)) if above else rows
        rows = F.conv2d(rows, module.conv.weight, module.conv.bias, 2, (0, 1), groups=rows.shape[1])
        pieces.append(module.reduce(F.relu(rows, inplace=True)))
    return torch.cat(pieces, dim=-2)


def _upsample(module: Upsample, x: Tensor) -> Tensor:
    if module.conv.stride != (2, 2):
        return type(module).forward(module, x)
    height, width = x.shape[1:3]
    pieces = []
    for part in strips(height, PIXELS // width):
        rows = x[:, part.start : part.stop + 1].movedim(-1, 1)  # odd output rows lie between two input rows
        rows = F.relu(module.expand(rows), inplace=True)
        rows = module.conv(rows)[..., : 2 * (part.stop - part.start), :]
        pieces.append(module.norm(module.reduce(rows).movedim(1, -1)))
    return torch.cat(pieces, dim=1)


def _classify(segmenter: Segmenter, x: Tensor) -> Tensor:
    if not isinstance(segmenter.decoder, MLLAUNetDecoder) or segmenter.decoder.scale != [4, 4]:
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
"""Replacement methods by module class."""

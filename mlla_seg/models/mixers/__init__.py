"""Token mixers: the part of a block that exchanges information between pixels.

Contract: ``Mixer(dim, num_heads, kernel, **switches)``; ``forward(x, rope)`` maps ``(B, *spatial, C)`` to the same
shape, where ``rope`` is the table of :func:`mlla_seg.models.ops.rope_table` for that grid. ``kernel`` is the size of
depthwise kernels along each axis. A mixer that visits pixels in turn has an attribute ``scans`` that is true; it works
on images only. Boolean keywords of a mixer are switches in its name: ``linear+lepe-heads`` is
``Linear(dim, num_heads, kernel, lepe=True, heads=False)``.

To add a mixer, write a module here with its formula as a function, and add it to ``MIXERS``, which the tests cover.
"""

from __future__ import annotations

import re
from inspect import signature

from torch import Tensor, nn

from mlla_seg.errors import InputError, lookup
from mlla_seg.models import ops
from mlla_seg.models.mixers.attention import LinearAttention, Softmax
from mlla_seg.models.mixers.baseline import Linear
from mlla_seg.models.mixers.controls import Identity, Lepe, LepeMatched
from mlla_seg.models.mixers.depthwise import DepthwiseConv, depthwise_conv
from mlla_seg.models.mixers.inline import InLine
from mlla_seg.models.mixers.nc_ssd import NonCausalSSD
from mlla_seg.models.mixers.rala import RALA
from mlla_seg.models.mixers.selective import SelectiveSSM

__all__ = [
    "MIXERS",
    "DepthwiseConv",
    "LinearAttention",
    "build_mixer",
    "depthwise_conv",
    "parse_mixer",
    "rope_for",
    "scanning",
]

MIXERS: dict[str, type[nn.Module]] = {
    "linear_attention": LinearAttention,
    "linear": Linear,
    "softmax": Softmax,
    "selective_ssm": SelectiveSSM,
    "inline": InLine,
    "rala": RALA,
    "nc_ssd": NonCausalSSD,
    "identity": Identity,
    "lepe": Lepe,
    "lepe_matched": LepeMatched,
}

BASELINE = "linear"
"""Mixer of a name that starts with a switch, such as ``+forget_gate``."""
OF_BLOCK = ("ape", "cpe")
"""Switches that the block obeys, with any mixer: absolute and conditional position encoding."""


def parse_mixer(name: str) -> tuple[str, dict[str, bool]]:
    """Split a name such as ``linear+rope-heads`` into a key of ``MIXERS`` and its switches.

    Raises:
        InputError: Unknown mixer or switch.
    """
    base, *words = re.split(r"(?=[+-])", name)
    base = base or BASELINE
    mixer = lookup(MIXERS, base, "token mixer")
    known = {key: value.default for key, value in signature(mixer).parameters.items() if value.default in (False, True)}
    known |= dict.fromkeys(OF_BLOCK, False)
    switches = {}
    for word in words:
        sign, switch = word[0] == "+", word[1:]
        if switch not in known or known[switch] == sign:
            written = ", ".join(f"{'-' if default else '+'}{key}" for key, default in known.items())
            raise InputError(f"Unknown switch {word!r} of token mixer {base}. Known: {written}.")
        switches[switch] = sign
    return base, switches


def build_mixer(name: str, dim: int, num_heads: int, kernel: tuple[int, ...] = (3, 3)) -> nn.Module:
    """Build a token mixer from its name, such as ``linear_attention`` or ``linear+forget_gate``.

    Raises:
        InputError: Unknown mixer or switch, or one that works on images only and a kernel with three axes.
        ValueError: The heads do not divide the channels.
    """
    base, switches = parse_mixer(name)
    if dim % num_heads:
        raise ValueError(f"{dim} channels cannot be split into {num_heads} heads of equal size.")
    own = {key: value for key, value in switches.items() if key not in OF_BLOCK}
    mixer = MIXERS[base](dim, num_heads, kernel, **own)
    if len(kernel) != 2 and getattr(mixer, "scans", False) is True:
        raise InputError(f"Token mixer {name} visits pixels in turn and takes images only: use another for volumes.")
    return mixer


def scanning(network: nn.Module) -> list[str]:
    """Return the names of a network's mixers that visit pixels in turn, which graphs of any size cannot express."""
    kinds = {type(module) for module in network.modules() if getattr(module, "scans", False) is True}
    return [name for name, kind in MIXERS.items() if kind in kinds]


def rope_for(x: Tensor) -> Tensor:
    """Return the RoPE table for a channels-last feature map ``(B, *spatial, C)``; not cached, so never stale."""
    return ops.rope_table(list(x.shape[1:-1]), x.shape[-1], x.device)

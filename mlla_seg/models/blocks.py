"""Blocks: a token mixer and what surrounds it, the paper's sixth difference between Mamba and linear attention.

Contract: ``Block(dim, num_heads, mlp_ratio, drop_path_rate, mixer, kernel)``; ``forward(x, rope)`` maps
``(B, *spatial, C)`` to the same shape. ``kernel`` is the size of depthwise kernels along each axis. To add a block,
write a class here and add it to ``BLOCKS``, which the tests cover.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.errors import InputError, lookup
from mlla_seg.models.mixers import build_mixer, depthwise_conv, parse_mixer, rope_for
from mlla_seg.models.ops import drop_path


class Mlp(nn.Sequential):
    """Two-layer MLP with hidden width ``ratio * C`` and exact GELU."""

    def __init__(self, dim: int, ratio: float) -> None:
        hidden = int(dim * ratio)
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class Block(nn.Module):
    """MLLA block: a token mixer in Mamba's macro design, then an MLP, each preceded by a position encoding."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        mixer: str = "linear_attention",
        kernel: tuple[int, ...] = (3, 3),
    ) -> None:
        super().__init__()
        if parse_mixer(mixer)[1].get("cpe"):
            raise InputError(f"The mlla block has a CPE of its own: leave +cpe out of mixer {mixer!r}.")
        self.drop_path_rate = drop_path_rate
        self.cpe1 = depthwise_conv(dim, kernel)
        self.norm1 = nn.LayerNorm(dim)
        self.gate_proj = nn.Linear(dim, dim)
        self.in_proj = nn.Linear(dim, dim)
        self.conv = depthwise_conv(dim, kernel)
        self.mixer = build_mixer(mixer, dim, num_heads, kernel)
        self.out_proj = nn.Linear(dim, dim)
        self.cpe2 = depthwise_conv(dim, kernel)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        x = x + self.cpe1(x)
        u = self.norm1(x)
        gate = F.silu(self.gate_proj(u))
        u = F.silu(self.conv(self.in_proj(u)))
        u = self.out_proj(self.mixer(u, rope) * gate)
        x = x + drop_path(u, self.drop_path_rate, self.training)
        x = x + self.cpe2(x)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, self.training)


class TransformerBlock(nn.Module):
    """Pre-norm Transformer block: mixer and projection, then MLP; with ``+cpe``, a CPE before each, as in MLLA."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path_rate: float,
        mixer: str,
        kernel: tuple[int, ...] = (3, 3),
    ) -> None:
        super().__init__()
        cpe = parse_mixer(mixer)[1].get("cpe")
        self.drop_path_rate = drop_path_rate
        self.cpe1 = depthwise_conv(dim, kernel) if cpe else None
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = build_mixer(mixer, dim, num_heads, kernel)
        self.out_proj = nn.Linear(dim, dim)
        self.cpe2 = depthwise_conv(dim, kernel) if cpe else None
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        if self.cpe1 is not None:
            x = x + self.cpe1(x)
        u = self.out_proj(self.mixer(self.norm1(x), rope))
        x = x + drop_path(u, self.drop_path_rate, self.training)
        if self.cpe2 is not None:
            x = x + self.cpe2(x)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, self.training)


class MambaBlock(nn.Module):
    """Mamba's block (arXiv 2312.00752): the mixer works at twice the width, between a convolution and a gate; no MLP.

    The paper's "block design: all", with E = 2. With ``+cpe``, a CPE comes first. ``mlp_ratio`` has no effect.
    """

    expansion = 2

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path_rate: float,
        mixer: str,
        kernel: tuple[int, ...] = (3, 3),
    ) -> None:
        super().__init__()
        inner = self.expansion * dim
        self.drop_path_rate = drop_path_rate
        self.cpe1 = depthwise_conv(dim, kernel) if parse_mixer(mixer)[1].get("cpe") else None
        self.norm1 = nn.LayerNorm(dim)
        self.gate_proj = nn.Linear(dim, inner)
        self.in_proj = nn.Linear(dim, inner)
        self.conv = depthwise_conv(inner, kernel)
        self.mixer = build_mixer(mixer, inner, self.expansion * num_heads, kernel)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        if self.cpe1 is not None:
            x = x + self.cpe1(x)
        u = self.norm1(x)
        gate = F.silu(self.gate_proj(u))
        u = F.silu(self.conv(self.in_proj(u)))
        u = self.out_proj(self.mixer(u, rope_for(u)) * gate)
        return x + drop_path(u, self.drop_path_rate, self.training)


BLOCKS: dict[str, Callable[..., nn.Module]] = {"mlla": Block, "transformer": TransformerBlock, "mamba": MambaBlock}


class Stage(nn.Module):
    """Blocks at one resolution, ``(B, *spatial, C)`` to the same shape.

    Args:
        dim: Channels C.
        num_heads: Attention heads.
        drop_path_rates: Stochastic-depth rate of each block.
        mlp_ratio: Ratio of MLP hidden width to input width.
        mixer: Name of the token mixer; with ``+ape``, a fixed sine-cosine position encoding is added to the input.
        block: Block design, a key of ``BLOCKS``.
        kernel: Size of depthwise kernels along each axis.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        drop_path_rates: Sequence[float],
        mlp_ratio: float,
        mixer: str,
        block: str = "mlla",
        kernel: tuple[int, ...] = (3, 3),
    ) -> None:
        super().__init__()
        build = lookup(BLOCKS, block, "block")
        self.ape = parse_mixer(mixer)[1].get("ape", False)
        self.blocks = nn.ModuleList(build(dim, num_heads, mlp_ratio, rate, mixer, kernel) for rate in drop_path_rates)

    def place(self, x: Tensor, rope: Tensor) -> Tensor:
        """Add the position of each pixel, the cosines and sines of RoPE, if the stage has an APE."""
        return x + rope.flatten(-2).to(x.dtype) if self.ape else x

    def forward(self, x: Tensor) -> Tensor:
        rope = rope_for(x)
        x = self.place(x, rope)
        for block in self.blocks:
            x = block(x, rope)
        return x

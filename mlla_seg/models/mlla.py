"""MLLA (Mamba-Like Linear Attention, also MILA): stem, encoder, classifier and model sizes.

Source: arXiv 2405.16605 and the authors' code. Feature maps are channels-last ``(B, H, W, C)`` inside and
``(B, C, H, W)`` at every public boundary. Shapes are read from the input, so any image of at least one pixel works.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models.blocks import Stage
from mlla_seg.models.ops import to_channels_first, to_channels_last

# drop_path_rate as trained by the authors; the last three sizes are ours, for CPUs, quick trials and tests.
SIZES: dict[str, dict[str, Any]] = {
    "mlla_tiny": dict(embed_dim=64, depths=(2, 4, 8, 4), num_heads=(2, 4, 8, 16), drop_path_rate=0.2),
    "mlla_small": dict(embed_dim=64, depths=(3, 6, 21, 6), num_heads=(2, 4, 8, 16), drop_path_rate=0.3),
    "mlla_base": dict(embed_dim=96, depths=(3, 6, 21, 6), num_heads=(3, 6, 12, 24), drop_path_rate=0.5),
    "mlla_micro": dict(embed_dim=32, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.1),
    "mlla_nano": dict(embed_dim=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), drop_path_rate=0.0),
    "mlla_test": dict(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), drop_path_rate=0.0),
}


class ConvBN(nn.Sequential):
    """Convolution (by default without bias) and batch norm on ``(B, C, H, W)``."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = False
    ) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=bias),
            nn.BatchNorm2d(out_channels),
        )


class Stem(nn.Module):
    """Stem: image ``(B, C, H, W)`` to feature maps at stride 2 (E/2 channels) and stride 4 (E channels).

    Without ``tokens`` only the stride-2 half is built, and its output is returned twice.
    """

    def __init__(self, in_channels: int, embed_dim: int, tokens: bool = True) -> None:
        super().__init__()
        half = embed_dim // 2
        self.tokens = tokens
        self.conv1 = ConvBN(in_channels, half, 3, stride=2)
        self.conv2 = ConvBN(half, half, 3)
        self.conv3 = ConvBN(half, half, 3)
        self.conv4 = ConvBN(half, 4 * embed_dim, 3, stride=2) if tokens else nn.Identity()
        self.conv5 = ConvBN(4 * embed_dim, embed_dim, 1) if tokens else nn.Identity()
        self.residual = nn.Identity()  # named so that hooks and fx find the stride-2 feature map

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.conv1(x), inplace=True)
        half = self.residual(x + self.conv3(F.relu(self.conv2(x), inplace=True)))
        if not self.tokens:
            return half, half
        return half, self.conv5(F.relu(self.conv4(half), inplace=True))


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of ``(B, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(to_channels_last(x), self.normalized_shape, self.weight, self.bias, self.eps)
        return to_channels_first(x)


class Downsample(nn.Module):
    """Halve the resolution and double the channels of ``(B, C, H, W)``; odd sizes are zero-padded by one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(dim, 8 * dim, 1)
        self.conv = nn.Conv2d(8 * dim, 8 * dim, 3, stride=2, padding=1, groups=8 * dim)
        self.reduce = ConvBN(8 * dim, 2 * dim, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.stride[0] == 1:  # dilated, see dilate()
            return self.reduce(F.relu(self.conv(F.relu(self.expand(x), inplace=True)), inplace=True))
        # Pad before the expansion, as the authors do: its bias makes the zeros non-zero. Padding by two and cropping
        # the output by one pads odd sizes by one and even sizes by none, without a size-dependent branch in exported
        # or compiled graphs.
        x = F.relu(self.expand(F.pad(x, (0, 2, 0, 2))), inplace=True)
        x = F.relu(self.conv(x), inplace=True)
        return self.reduce(x[..., :-1, :-1])


def dilate(module: nn.Module, rate: int) -> None:
    """Set every convolution in ``module`` to stride 1 and dilation ``rate``, padded to keep the resolution."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            reach = rate * (conv.kernel_size[0] // 2)
            conv.stride, conv.dilation, conv.padding = (1, 1), (rate, rate), (reach, reach)


def init_weights(module: nn.Module) -> None:
    """Initialise linear layers as in vision transformers: truncated normal with std 0.02, zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Encoder(nn.Module):
    """Base class of encoders: ``(B, C, H, W)`` to five feature maps ``(B, C_i, ceil(H / 2^i), ceil(W / 2^i))``."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels = 3
        """Channels of the image."""
        self.out_channels: list[int] = []
        """Channels C_i of the five feature maps, i = 1 .. 5."""
        self.num_heads: tuple[int, ...] = ()
        """Attention heads of the last four feature maps, for attention decoders; if empty, the decoder chooses."""


class MLLAEncoder(Encoder):
    """Hierarchical MLLA encoder with five feature maps at strides 2, 4, 8, 16 and 32.

    Args:
        in_channels: Channels of the image.
        embed_dim: Channels E at stride 4; the five feature maps have E/2, E, 2E, 4E and 8E channels.
        depths: Blocks per stage; with fewer than four stages, the coarsest feature maps are missing.
        num_heads: Attention heads per stage.
        mlp_ratio: Ratio of MLP hidden width to input width.
        drop_path_rate: Stochastic-depth rate of the last block; the rate increases linearly from 0 at the first.
        norm_outputs: Apply a LayerNorm to each stage output, as in the authors' dense-prediction backbone.
        stage_inputs: Return the input of every stage but the last instead of its output, for MLLA-UNet's skips.
        mixer: Token mixer, see :func:`~mlla_seg.models.mixers.parse_mixer`.
        block: Block design, a key of :data:`~mlla_seg.models.blocks.BLOCKS`.
        output_stride: Stride of the coarsest feature map: 32, or 16 or 8 with dilated later stages (arXiv 1706.05587).
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 4, 8, 4),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        norm_outputs: bool = False,
        stage_inputs: bool = False,
        mixer: str = "linear_attention",
        block: str = "mlla",
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride of an MLLA encoder must be 8, 16 or 32, got {output_stride}.")
        if not len(depths) == len(num_heads) <= 4:
            raise ValueError(
                f"MLLA has up to four stages, and depths and num_heads need one entry for each: "
                f"got {len(depths)} and {len(num_heads)}."
            )
        dims = [embed_dim * 2**i for i in range(len(depths))]
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.in_channels = in_channels
        self.out_channels = [embed_dim // 2, *dims]
        self.num_heads = tuple(num_heads)
        self.stage_inputs = stage_inputs
        self.stem = Stem(in_channels, embed_dim, tokens=len(depths) > 0)
        self.stages = nn.ModuleList(
            Stage(dim, heads, [next(rates) for _ in range(depth)], mlp_ratio, mixer, block)
            for dim, heads, depth in zip(dims, num_heads, depths, strict=True)
        )
        self.downsamples = nn.ModuleList([nn.Identity(), *(Downsample(dim) for dim in dims[:-1])])
        self.norms = nn.ModuleList(MapNorm(dim) if norm_outputs else nn.Identity() for dim in dims)
        self.apply(init_weights)
        for i, stage in enumerate(self.stages):
            if 2 ** (i + 2) > output_stride:
                for module in (self.downsamples[i], stage):
                    dilate(module, 2 ** (i + 2) // output_stride)

    def forward(self, x: Tensor, maps: int = 5) -> list[Tensor]:
        """Return feature maps ``(B, C_i, ceil(H / 2^i), ceil(W / 2^i))``, i = 1 .. 5, of images ``(B, C, H, W)``.

        Only the ``maps`` finest are computed.
        """
        # Channels-last memory suits the blocks, and convolutions are no slower.
        half, x = self.stem(x.contiguous(memory_format=torch.channels_last))
        features = [half]
        for downsample, stage, norm in zip(self.downsamples, self.stages, self.norms):  # noqa: B905 - TorchScript
            if len(features) < maps:
                x = skip = downsample(x)
                x = to_channels_first(stage(to_channels_last(x)))
                features.append(skip if self.stage_inputs else norm(x))
        if self.stage_inputs:
            features[-1] = x
        return features


class MLLA(nn.Module):
    """MLLA classifier: encoder, LayerNorm, mean over tokens, linear head; ``(B, C, H, W)`` to ``(B, num_classes)``."""

    def __init__(
        self,
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 4, 8, 4),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        num_classes: int = 1000,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        mixer: str = "linear_attention",
        block: str = "mlla",
    ) -> None:
        super().__init__()
        self.encoder = MLLAEncoder(
            in_channels, embed_dim, depths, num_heads, mlp_ratio, drop_path_rate, mixer=mixer, block=block
        )
        self.norm = nn.LayerNorm(8 * embed_dim)
        self.head = nn.Linear(8 * embed_dim, num_classes)
        init_weights(self.head)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.encoder(x)[-1].flatten(2).transpose(1, 2)  # (B, N, C)
        return self.head(self.norm(tokens).mean(dim=1))

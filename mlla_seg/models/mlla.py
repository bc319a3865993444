"""MLLA (Mamba-Like Linear Attention, also MILA): stem, encoder, classifier and model sizes.

Source: arXiv 2405.16605 and the authors' code. Feature maps are channels-last ``(B, *spatial, C)`` inside and
``(B, C, *spatial)`` at every public boundary, with two spatial axes (images) or three (volumes). Shapes are read from
the input, so any image of at least one pixel works.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data.halving import STEPS
from mlla_seg.errors import InputError
from mlla_seg.models.axes import BATCH_NORM, CONV, DEPTHWISE, kernels_of, require_strides
from mlla_seg.models.blocks import Stage
from mlla_seg.models.ops import channels_last_memory, to_channels_first, to_channels_last

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
    """Convolution (by default without bias) and batch norm on ``(B, C, *spatial)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Size of the kernel along each axis.
        stride: Stride of each axis; by default 1.
        bias: Whether the convolution has a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int] | None = None,
        bias: bool = False,
    ) -> None:
        axes = len(kernel)
        padding = tuple(size // 2 for size in kernel)
        super().__init__(
            CONV[axes](in_channels, out_channels, tuple(kernel), tuple(stride or [1] * axes), padding, bias=bias),
            BATCH_NORM[axes](out_channels),
        )


class Stem(nn.Module):
    """Stem: image ``(B, C, *spatial)`` to feature maps at stride 2 (E/2 channels) and stride 4 (E channels).

    Without ``tokens`` only the stride-2 half is built, and its output is returned twice.

    Args:
        in_channels: Channels of the image.
        embed_dim: Channels E.
        tokens: Whether to build the second half.
        strides: Strides along each axis of the two halvings.
        kernels: Kernel size along each axis after each of them.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dim: int,
        tokens: bool = True,
        strides: Sequence[Sequence[int]] = ((2, 2), (2, 2)),
        kernels: Sequence[Sequence[int]] = ((3, 3), (3, 3)),
    ) -> None:
        super().__init__()
        half = embed_dim // 2
        single = [1] * len(kernels[0])
        self.tokens = tokens
        self.conv1 = ConvBN(in_channels, half, kernels[0], strides[0])
        self.conv2 = ConvBN(half, half, kernels[0])
        self.conv3 = ConvBN(half, half, kernels[0])
        self.conv4 = ConvBN(half, 4 * embed_dim, kernels[1], strides[1]) if tokens else nn.Identity()
        self.conv5 = ConvBN(4 * embed_dim, embed_dim, single) if tokens else nn.Identity()
        self.residual = nn.Identity()  # named so that hooks and fx find the stride-2 feature map

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.conv1(x), inplace=True)
        half = self.residual(x + self.conv3(F.relu(self.conv2(x), inplace=True)))
        if not self.tokens:
            return half, half
        return half, self.conv5(F.relu(self.conv4(half), inplace=True))


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of ``(B, C, *spatial)``."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(to_channels_last(x), self.normalized_shape, self.weight, self.bias, self.eps)
        return to_channels_first(x)


class Downsample(nn.Module):
    """Halve the resolution and double the channels of ``(B, C, *spatial)``; odd sizes are zero-padded by one.

    Args:
        dim: Channels C.
        stride: Stride of each axis, 2 or 1.
        kernel: Kernel size along each axis.
    """

    halved: list[int]

    def __init__(self, dim: int, stride: tuple[int, ...] = (2, 2), kernel: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        axes = len(kernel)
        self.expand = CONV[axes](dim, 8 * dim, 1)
        self.conv = DEPTHWISE[axes](8 * dim, kernel, stride)
        self.reduce = ConvBN(8 * dim, 2 * dim, [1] * axes, bias=True)
        self.halved = [axis for axis in range(axes) if stride[axis] == 2]
        self.padding = _by_axis([2 if step == 2 else 0 for step in stride])

    def forward(self, x: Tensor) -> Tensor:
        # Pad before the expansion, as the authors do: its bias makes the zeros non-zero. Padding by two and cropping
        # the output by one pads odd sizes by one and even sizes by none, without a size-dependent branch in exported
        # or compiled graphs.
        halves = len(self.halved) > 0 and self.conv.dilation[0] == 1  # dilated, it keeps the resolution: see dilate()
        if halves:
            x = F.pad(x, self.padding)
        x = F.relu(self.conv(F.relu(self.expand(x), inplace=True)), inplace=True)
        if halves:
            for axis in self.halved:
                x = x.narrow(2 + axis, 0, x.shape[2 + axis] - 1)
        return self.reduce(x)


def _by_axis(after: list[int]) -> list[int]:
    """Return the argument of ``F.pad`` for padding after each axis, which lists the last axis first."""
    return [number for size in reversed(after) for number in (0, size)]


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
    """Base class of encoders: ``(B, C, *spatial)`` to five feature maps ``(B, C_i, *spatial / s_i)``, rounded up.

    The strides s_i are 2^i, unless ``strides`` says otherwise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.in_channels = 3
        """Channels of the image."""
        self.out_channels: list[int] = []
        """Channels C_i of the five feature maps, i = 1 .. 5."""
        self.strides: list[tuple[int, ...]] = [(2, 2)] * STEPS
        """Strides of the five steps between the feature maps, for each axis."""
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
        output_stride: Stride of the coarsest feature map: 32, or 16 or 8 with dilated later stages (arXiv 1706.05587);
            for images only.
        dims: Spatial axes: 2 for images ``(B, C, H, W)``, 3 for volumes ``(B, C, D, H, W)``.
        strides: Strides of the five steps along each axis, 2 by default; 1 leaves an axis as it is, see
            :func:`~mlla_seg.data.halving.strides_for`. Kernels are 1 wide along an axis until its first halving.

    Raises:
        InputError: ``dims``, ``strides`` or a name is not allowed.
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
        dims: int = 2,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.axes = dims
        self.strides = require_strides(dims, strides)
        kernels = kernels_of(self.strides)
        if output_stride < 32 and (dims, strides) != (2, None):
            raise InputError(f"An encoder dilated to stride {output_stride} takes images with default strides only.")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride of an MLLA encoder must be 8, 16 or 32, got {output_stride}.")
        if not len(depths) == len(num_heads) <= 4:
            raise ValueError(
                f"MLLA has up to four stages, and depths and num_heads need one entry for each: "
                f"got {len(depths)} and {len(num_heads)}."
            )
        widths = [embed_dim * 2**i for i in range(len(depths))]
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.in_channels = in_channels
        self.out_channels = [embed_dim // 2, *widths]
        self.num_heads = tuple(num_heads)
        self.stage_inputs = stage_inputs
        self.stem = Stem(in_channels, embed_dim, len(depths) > 0, self.strides[:2], kernels[1:3])
        self.stages = nn.ModuleList(
            Stage(widths[i], num_heads[i], [next(rates) for _ in range(depth)], mlp_ratio, mixer, block, kernels[i + 2])
            for i, depth in enumerate(depths)
        )
        self.downsamples = nn.ModuleList(
            Downsample(widths[i - 1], self.strides[i + 1], kernels[i + 2]) if i else nn.Identity()
            for i in range(max(1, len(widths)))
        )
        self.norms = nn.ModuleList(MapNorm(width) if norm_outputs else nn.Identity() for width in widths)
        self.apply(init_weights)
        for i, stage in enumerate(self.stages):
            if 2 ** (i + 2) > output_stride:
                for module in (self.downsamples[i], stage):
                    dilate(module, 2 ** (i + 2) // output_stride)

    def forward(self, x: Tensor, maps: int = 5) -> list[Tensor]:
        """Return feature maps ``(B, C_i, *spatial / s_i)``, i = 1 .. 5, sizes rounded up, of ``(B, C, *spatial)``.

        Only the ``maps`` finest are computed.
        """
        # Channels-last memory suits the blocks, and convolutions are no slower.
        half, x = self.stem(channels_last_memory(x, self.axes))
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

"""Decoders: five feature maps in, one feature map out.

Contract: ``decoder.decode(image, features)`` takes the normalised image ``(B, C, H, W)``, H and W multiples of 32, and
the encoder's feature maps ``(B, C_i, H / 2^i, W / 2^i)``, i = 1 .. 5; ``decoder.enlarge`` turns its result into
``(B, decoder.out_channels, H / s, W / s)`` for any stride s. The segmenter adds the head and resizes the logits to the
image. Large upsampling steps belong in ``enlarge``, which training can recompute together with the head instead of
storing its activations. Dilated encoders stop at a finer stride, see ``OUTPUT_STRIDES``.

To add a decoder, write a class with this contract and add it to ``DECODERS``, which the tests cover. The MLLA-UNet
decoders are defined here and work on volumes too, with the strides of the encoder; all others come from
segmentation_models_pytorch and take images only.
"""

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data.halving import STEPS, total_strides
from mlla_seg.errors import InputError
from mlla_seg.models.axes import CONV, TRANSPOSED, kernels_of, require_strides
from mlla_seg.models.blocks import Stage
from mlla_seg.models.mlla import ConvBN, Encoder, MapNorm, init_weights
from mlla_seg.models.ops import to_channels_first, to_channels_last, unfold_channels


class Decoder(nn.Module):
    """Base class of decoders, with the contract above."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 0
        """Channels of the feature map that the decoder returns."""

    def decode(self, image: Tensor, features: list[Tensor]) -> Tensor:
        """Run the decoder without its last step."""
        raise NotImplementedError

    def enlarge(self, x: Tensor) -> Tensor:
        """Apply the last step, if it is a large upsampling."""
        return x

    def forward(self, image: Tensor, features: list[Tensor]) -> Tensor:
        return self.enlarge(self.decode(image, features))


class Upsample(nn.Module):
    """Double the resolution and halve the channels: ``(B, *spatial, C)`` to ``(B, *(2 spatial), C / 2)``.

    Args:
        dim: Channels C.
        stride: Factor of each axis, 2 or 1.
        kernel: Kernel size along each axis.
    """

    def __init__(self, dim: int, stride: tuple[int, ...] = (2, 2), kernel: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        axes = len(kernel)
        self.expand = CONV[axes](dim, 4 * dim, 1)
        self.conv = TRANSPOSED[axes](4 * dim, kernel, stride)
        self.reduce = ConvBN(4 * dim, dim // 2, [1] * axes, bias=True)
        self.norm = nn.LayerNorm(dim // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.relu(self.expand(to_channels_first(x)), inplace=True))
        return self.norm(to_channels_last(self.reduce(x)))


class Level(nn.Module):
    """MLLA-UNet decoder level: upsample, concatenate the skip, reduce, MLLA blocks; channels-last throughout."""

    def __init__(
        self,
        dim: int,
        skip_dim: int,
        num_heads: int,
        drop_path_rates: Sequence[float],
        mlp_ratio: float,
        mixer: str,
        block: str,
        stride: tuple[int, ...],
        kernel: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.up = Upsample(2 * dim, stride, kernel)
        self.fuse = nn.Linear(dim + skip_dim, dim)
        self.stage = Stage(dim, num_heads, drop_path_rates, mlp_ratio, mixer, block, kernel)

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """Upsample, concatenate the skip and reduce the channels."""
        return self.fuse(torch.cat((self.up(x), skip), dim=-1))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.stage(self.join(x, skip))


class BlockDecoder(Decoder):
    """MLLA blocks from stride 32 up to stride 4, shared by both MLLA-UNet decoders.

    The levels have E, 2E and 4E channels, where E is the encoder's width at stride 4, and start from 8E; an encoder
    with another width at stride 32 is projected to 8E by a linear layer.

    Args:
        channels: Channels of the five encoder feature maps.
        num_heads: Attention heads of the encoder's four stages, reused at the same strides. If empty, heads have 32
            channels or more.
        depths: Blocks per level, coarse to fine.
        mlp_ratio: Ratio of MLP hidden width to input width.
        drop_path_rate: Stochastic-depth rate of the coarsest block; the rate decreases linearly to 0 at the finest.
        mixer: Token mixer, see :func:`~mlla_seg.models.mixers.parse_mixer`.
        block: Block design, a key of :data:`~mlla_seg.models.blocks.BLOCKS`.
        strides: Strides of the encoder's five steps along each axis; by default 2, for images.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_heads: Sequence[int] = (),
        depths: Sequence[int] = (2, 2, 2),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        mixer: str = "linear_attention",
        block: str = "mlla",
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.strides = require_strides(len(strides[0]) if strides else 2, strides)
        kernels = kernels_of(self.strides)
        if len(depths) != 3:
            raise ValueError(
                f"The MLLA-UNet decoder needs three depths, one per level from coarse to fine, got {tuple(depths)}."
            )
        embed_dim = -(-channels[1] // 4) * 4  # RoPE rotates channel pairs along the axes
        dims = [embed_dim * 2**i for i in range(4)]
        heads = num_heads or [math.gcd(dim, max(1, dim // 32)) for dim in dims]
        rates = iter(torch.linspace(drop_path_rate, 0, sum(depths), device="cpu").tolist())
        self.embed_dim = embed_dim
        self.norm = nn.LayerNorm(channels[4])
        self.enter = nn.Identity() if channels[4] == dims[3] else nn.Linear(channels[4], dims[3])
        self.levels = nn.ModuleList(
            Level(
                *(dims[i], channels[i + 1], heads[i], [next(rates) for _ in range(depth)], mlp_ratio, mixer, block),
                *(self.strides[i + 2], kernels[i + 2]),
            )
            for i, depth in zip((2, 1, 0), depths, strict=True)
        )

    def ascend(self, features: list[Tensor]) -> Tensor:
        """Decode feature maps ``(B, C_i, *spatial / s_i)`` to ``(B, *spatial / s_2, E)``, channels last."""
        skips = [to_channels_last(feature) for feature in features]
        x = self.enter(self.norm(skips[4]))
        for level, skip in zip(self.levels, (skips[3], skips[2], skips[1]), strict=True):
            x = level(x, skip)
        return x


class MLLAUNetDecoder(BlockDecoder):
    """Decoder of MLLA-UNet (arXiv 2410.23738): MLLA blocks up to stride 4, then one learned x4 expansion.

    Args:
        channels: Channels of the five encoder feature maps.
        options: Arguments of :class:`BlockDecoder`.
    """

    def __init__(self, channels: Sequence[int], *args: Any, **options: Any) -> None:
        super().__init__(channels, *args, **options)
        embed_dim = self.out_channels = self.embed_dim
        self.scale = total_strides(self.strides[:2])
        self.norm_up = nn.LayerNorm(embed_dim)
        self.expand = nn.Linear(embed_dim, math.prod(self.scale) * embed_dim, bias=False)
        self.norm_out = nn.LayerNorm(embed_dim)
        self.apply(init_weights)

    def decode(self, image: Tensor, features: list[Tensor]) -> Tensor:
        return self.ascend(features)

    def enlarge(self, x: Tensor) -> Tensor:
        """Apply the learned x4 expansion, ``(B, *spatial, E)`` to ``(B, E, *(4 spatial))``."""
        x = unfold_channels(self.expand(self.norm_up(x)), self.scale)  # order p1, p2, c
        return to_channels_first(self.norm_out(x))


class Refine(nn.Module):
    """Double the resolution and join a finer map: ``(B, C, *spatial)`` and its skip to ``(B, D, *(2 spatial))``.

    Args:
        dim: Channels C.
        skip_dim: Channels of the finer map, or 0.
        out_dim: Channels D.
        stride: Factor of each axis, 2 or 1.
        kernel: Kernel size along each axis.
    """

    def __init__(self, dim: int, skip_dim: int, out_dim: int, stride: tuple[int, ...], kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = list(stride)
        self.expand = nn.Linear(dim, math.prod(stride) * out_dim)
        self.fuse = ConvBN(out_dim + skip_dim, out_dim, kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = to_channels_first(unfold_channels(self.expand(to_channels_last(x)), self.scale))
        return F.relu(self.fuse(torch.cat((x, skip), dim=1)), inplace=True)


class FineMLLAUNetDecoder(BlockDecoder):
    """MLLA-UNet's decoder with skips at strides 2 and 1 in place of the x4 expansion, for thin structures.

    The skips are the encoder's map at stride 2, if it has one, and a convolution of the image. As full resolution is
    costly, there are E / 2 channels at stride 2 and E / 4 at stride 1, but not below 8.

    Args:
        channels: Channels of the five encoder feature maps.
        num_heads: See :class:`BlockDecoder`.
        in_channels: Channels of the image.
        options: Arguments of :class:`BlockDecoder`.
    """

    def __init__(
        self, channels: Sequence[int], num_heads: Sequence[int] = (), in_channels: int = 3, **options: Any
    ) -> None:
        super().__init__(channels, num_heads, **options)
        half, full = max(8, self.embed_dim // 2), max(8, self.embed_dim // 4)
        kernels = kernels_of(self.strides)
        self.out_channels = full
        self.see = ConvBN(in_channels, full, kernels[0])
        self.norm_up = MapNorm(self.embed_dim)
        self.to_half = Refine(self.embed_dim, channels[0], half, self.strides[1], kernels[1])
        self.to_full = Refine(half, full, full, self.strides[0], kernels[0])
        self.apply(init_weights)

    def decode(self, image: Tensor, features: list[Tensor]) -> Tensor:
        """Decode feature maps ``(B, C_i, *spatial / s_i)`` to ``(B, D, *spatial)``."""
        x = self.to_half(self.norm_up(to_channels_first(self.ascend(features))), features[0])
        return self.to_full(x, F.relu(self.see(image), inplace=True))


class SmpDecoder(Decoder):
    """Adapter of a segmentation_models_pytorch decoder to the contract of this module.

    Args:
        channels: Channels of the five encoder feature maps.
        path: ``module:Class`` below ``segmentation_models_pytorch.decoders``.
        out_channels: Channels of its output.
        options: Arguments of the decoder.
    """

    def __init__(self, channels: Sequence[int], path: str, out_channels: int, /, **options: object) -> None:
        super().__init__()
        from segmentation_models_pytorch.base.initialization import initialize_decoder

        module, name = path.split(":")
        decoder = getattr(import_module(f"segmentation_models_pytorch.decoders.{module}"), name)
        # smp counts the image as feature map 0, which these decoders ignore.
        self.decoder = decoder(encoder_channels=(0, *channels), **options)
        self.out_channels = out_channels
        initialize_decoder(self.decoder)

    def decode(self, image: Tensor, features: list[Tensor]) -> Tensor:
        return self.decoder([image] + features)  # noqa: RUF005 - TorchScript


def mlla_unet(encoder: Encoder, **options: Any) -> MLLAUNetDecoder:
    """Build the MLLA-UNet decoder for an encoder."""
    return MLLAUNetDecoder(encoder.out_channels, encoder.num_heads, strides=encoder.strides, **options)


def mlla_unet_fine(encoder: Encoder, **options: Any) -> FineMLLAUNetDecoder:
    """Build the MLLA-UNet decoder with skips at strides 2 and 1 for an encoder."""
    channels = encoder.out_channels, encoder.num_heads, encoder.in_channels
    return FineMLLAUNetDecoder(*channels, strides=encoder.strides, **options)


def from_smp(path: str, out_channels: int, /, **fixed: object) -> Callable[..., SmpDecoder]:
    """Return a builder of an smp decoder with fixed arguments."""

    def build(encoder: Encoder) -> SmpDecoder:
        if encoder.strides != [(2, 2)] * STEPS:
            raise InputError(
                "Decoders of segmentation_models_pytorch take images with default strides only: use "
                f"{' or '.join(OF_BLOCKS)}."
            )
        if not encoder.out_channels[0] and path in NEED_STRIDE_2:
            raise InputError(
                "This decoder needs a feature map at stride 2, which this encoder does not have. "
                "Use another decoder, such as unet, fpn or mlla_unet."
            )
        return SmpDecoder(encoder.out_channels, path, out_channels, **fixed)

    return build


UNET_CHANNELS = (256, 128, 64, 32, 16)
NEED_STRIDE_2 = {"unetplusplus.decoder:UnetPlusPlusDecoder"}

DECODERS: dict[str, Callable[..., Decoder]] = {
    "mlla_unet": mlla_unet,
    "mlla_unet_fine": mlla_unet_fine,
    "unet": from_smp("unet.decoder:UnetDecoder", 16, decoder_channels=UNET_CHANNELS),
    "unetplusplus": from_smp("unetplusplus.decoder:UnetPlusPlusDecoder", 16, decoder_channels=UNET_CHANNELS),
    "manet": from_smp("manet.decoder:MAnetDecoder", 16, decoder_channels=UNET_CHANNELS),
    "linknet": from_smp("linknet.decoder:LinknetDecoder", 32),
    "fpn": from_smp("fpn.decoder:FPNDecoder", 128),
    "upernet": from_smp("upernet.decoder:UPerNetDecoder", 256),
    "segformer": from_smp("segformer.decoder:SegformerDecoder", 256),
    "deeplabv3plus": from_smp(
        "deeplabv3.decoder:DeepLabV3PlusDecoder",
        256,
        out_channels=256,
        encoder_depth=5,
        output_stride=16,
        atrous_rates=(12, 24, 36),
        aspp_separable=True,
        aspp_dropout=0.5,
    ),
}

OF_BLOCKS = ("mlla_unet", "mlla_unet_fine")
"""Decoders of MLLA blocks: they have depths, a mixer and stochastic depth, and use encoder stage inputs as skips."""

OUTPUT_STRIDES = {"deeplabv3plus": 16}
"""Output stride of the encoder for decoders that need it dilated; 32 for all others."""

UNREAD_STAGES = {"deeplabv3plus": (1, 2)}
"""Encoder stages whose feature maps a decoder does not read; all other decoders read all four."""

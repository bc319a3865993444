"""Whole networks of MONAI by name, as what MLLA-UNet is compared with under one recipe and one scoring.

``--model.encoder monai/dynunet --model.decoder none``: such a network is taken up to the maps before its last layer, at
the image's size, and the segmenter's head stands in for that. Weights start random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mlla_seg.errors import InputError, lookup
from mlla_seg.models.decoders import Decoder
from mlla_seg.models.mlla import Encoder

NO_DECODER = "none"
"""The decoder's name where the encoder is a whole network."""

CHANNELS = 32
"""Of the maps that these networks end with, at the image's size."""


def _dynunet(in_channels: int, frame: Sequence[int]) -> nn.Module:
    """nnU-Net's plain U-Net in two dimensions: 32 to 512 channels, down to 4 pixels or stride 32."""
    from monai.networks.nets import DynUNet

    levels = int(math.log2(min(128, max(32, min(frame))) / 4)) + 1
    filters = [min(512, CHANNELS * 2**level) for level in range(levels)]
    strides = [1, *[2] * (levels - 1)]
    network = DynUNet(2, in_channels, 1, [3] * levels, strides, strides[1:], filters=filters)
    return network.skip_layers  # all but the output block; DynUNet lists its parts twice


def _segresnet(in_channels: int, frame: Sequence[int]) -> nn.Module:
    """SegResNet (arXiv 1810.11654)."""
    from monai.networks.nets import SegResNet

    network = SegResNet(2, CHANNELS, in_channels, 1)
    network.conv_final = network.conv_final[:2]  # norm and activation, without the convolution to classes
    return network


WHOLE: dict[str, Callable[[int, Sequence[int]], nn.Module]] = {
    "monai/dynunet": _dynunet,
    "monai/segresnet": _segresnet,
}
"""Builders by channels of the image and size ``(height, width)`` of the training samples."""

UNKNOWN_FRAME = (256, 256)
"""The size of the samples where nothing says it."""


class WholeNetwork(Encoder):
    """A network of another library: ``(B, C, H, W)`` to one map of features ``(B, D, H, W)``, multiples of 32.

    Args:
        name: A name in ``WHOLE``.
        in_channels: Channels of the image.
        frame: ``(height, width)`` of the training samples, by which a network may choose its depth.

    Raises:
        InputError: An unknown name.
    """

    def __init__(self, name: str, in_channels: int = 3, frame: Sequence[int] | None = None) -> None:
        super().__init__()
        build = lookup(WHOLE, name, "whole network")
        self.name = name
        self.in_channels = in_channels
        self.network = build(in_channels, frame or UNKNOWN_FRAME)
        self.out_channels = [CHANNELS]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.network(x)]


class NoDecoder(Decoder):
    """Hands on the one map of a whole network.

    Raises:
        InputError: The encoder is none.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if not isinstance(encoder, WholeNetwork):
            raise InputError(f"The decoder {NO_DECODER} belongs to whole networks: {', '.join(WHOLE)}.")
        self.out_channels = encoder.out_channels[0]

    def decode(self, image: Tensor, features: list[Tensor]) -> Tensor:
        return features[0]

"""Whole networks of MONAI by name, as baselines with the same training recipe and scoring as MLLA-UNet.

``--model.encoder monai/dynunet --model.decoder none``: the network is used up to the full-resolution feature map before
its last layer, which the segmenter's head replaces. Weights start random.
"""

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mlla_seg.errors import InputError, lookup
from mlla_seg.models.decoders import Decoder
from mlla_seg.models.mlla import Encoder

NO_DECODER = "none"
"""Decoder name to use with a whole network."""

CHANNELS = 32
"""Channels of the full-resolution feature map that these networks end with."""


def _dynunet(in_channels: int, frame: Sequence[int]) -> nn.Module:
    """nnU-Net's plain 2-D U-Net: 32 to 512 channels, down to 4 pixels or stride 32."""
    from monai.networks.nets import DynUNet

    levels = int(math.log2(min(128, max(32, min(frame))) / 4)) + 1
    filters = [min(512, CHANNELS * 2**level) for level in range(levels)]
    strides = [1, *[2] * (levels - 1)]
    network = DynUNet(2, in_channels, 1, [3] * levels, strides, strides[1:], filters=filters)
    return network.skip_layers  # all but the output block; DynUNet registers its parts twice


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
"""Builders by name, called with the image channels and the size ``(height, width)`` of the training patches."""

UNKNOWN_FRAME = (256, 256)
"""Patch size assumed if none is given."""


class WholeNetwork(Encoder):
    """Network of another library: ``(B, C, H, W)`` to one feature map ``(B, D, H, W)``, H and W multiples of 32.

    Args:
        name: A key of ``WHOLE``.
        in_channels: Channels of the image.
        frame: ``(height, width)`` of the training patches, from which a network may choose its depth.

    Raises:
        InputError: Unknown name.
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
    """Decoder that passes on the feature map of a whole network.

    Raises:
        InputError: The encoder is not a whole network.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if not isinstance(encoder, WholeNetwork):
            raise InputError(f"The decoder {NO_DECODER} works only with whole networks: {', '.join(WHOLE)}.")
        self.out_channels = encoder.out_channels[0]

    def decode(self, image: Tensor, features: list[Tensor]) -> Tensor:
        return features[0]

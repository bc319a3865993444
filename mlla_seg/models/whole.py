"""Whole networks of MONAI by name, as baselines with the same training recipe and scoring as MLLA-UNet.

``--model.encoder monai/dynunet --model.decoder none``: the network is used up to the full-resolution feature map before
its last layer, which the segmenter's head replaces. Weights start random. Both networks take images and volumes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from mlla_seg.data.halving import total_strides
from mlla_seg.errors import InputError, lookup
from mlla_seg.models.axes import kernels_of, require_strides
from mlla_seg.models.decoders import Decoder
from mlla_seg.models.mlla import Encoder

NO_DECODER = "none"
"""Decoder name to use with a whole network."""

CHANNELS = 32
"""Channels of the full-resolution feature map that these networks end with."""


Steps: TypeAlias = list[tuple[int, ...]]
"""Strides of the halvings along each axis."""


def _dynunet(in_channels: int, steps: Steps) -> nn.Module:
    """nnU-Net's plain U-Net with 32 to 512 channels, or 320 for volumes."""
    from monai.networks.nets import DynUNet

    axes = len(steps[0])
    levels = len(steps) + 1
    filters = [min(512 if axes == 2 else 320, CHANNELS * 2**level) for level in range(levels)]
    strides: list[Any] = [(1,) * axes, *steps]
    network = DynUNet(axes, in_channels, 1, kernels_of(steps), strides, strides[1:], filters=filters)
    return network.skip_layers  # all but the output block; DynUNet registers its parts twice


def _segresnet(in_channels: int, steps: Steps) -> nn.Module:
    """SegResNet (arXiv 1810.11654), which halves all axes three times.

    Raises:
        InputError: The strides are too small for it.
    """
    from monai.networks.nets import SegResNet

    if min(total_strides(steps)) < 8:
        raise InputError(f"monai/segresnet halves each axis three times, which does not fit strides {steps}.")
    network = SegResNet(len(steps[0]), CHANNELS, in_channels, 1)
    network.conv_final = network.conv_final[:2]  # norm and activation, without the convolution to classes
    return network


WHOLE: dict[str, Callable[[int, Steps], nn.Module]] = {
    "monai/dynunet": _dynunet,
    "monai/segresnet": _segresnet,
}
"""Builders by name, called with the image channels and the strides of the halvings."""

UNKNOWN_FRAME = (256, 256)
"""Size of the training patches of images that is assumed if none is given."""


class WholeNetwork(Encoder):
    """Network of another library: ``(B, C, *spatial)`` to one feature map ``(B, D, *spatial)``.

    Sizes are multiples of the product of the strides, 32 for images.

    Args:
        name: A key of ``WHOLE``.
        in_channels: Channels of the image.
        frame: Size of the training patches, from which a network for images may choose its depth, down to 4 pixels.
        dims: Spatial axes, 2 or 3.
        strides: Strides of the five steps along each axis, 2 by default; steps that halve nothing are left out.

    Raises:
        InputError: Unknown name, or strides that the network cannot have.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        frame: Sequence[int] | None = None,
        dims: int = 2,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        build = lookup(WHOLE, name, "whole network")
        self.name = name
        self.in_channels = in_channels
        self.strides = require_strides(dims, strides)
        steps = [step for step in self.strides if max(step) > 1]
        if dims == 2 and strides is None:
            steps = steps[: int(math.log2(min(128, max(32, min(frame or UNKNOWN_FRAME))) / 4))]
        self.network = build(in_channels, steps)
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

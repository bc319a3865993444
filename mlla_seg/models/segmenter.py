"""Segmenter: normalise, pad, encode, decode, classify, crop; images in raw units in, logits of the same size out."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data.framing import at_least, margin, pad
from mlla_seg.data.normalisation import normalise, window_tensor
from mlla_seg.errors import InputError
from mlla_seg.models.decoders import Decoder, MLLAUNetDecoder
from mlla_seg.models.hub import HubMixin
from mlla_seg.models.mlla import Encoder, MLLAEncoder
from mlla_seg.models.ops import at_least_float32

STRIDE = 32
"""Stride of the encoder's coarsest feature map; the network pads images to multiples of it."""


class Normalise(nn.Module):
    """Clip intensities to a window and standardise them; the parameters are buffers, saved with the weights.

    Args:
        in_channels: Channels of the image.
        mean: Mean per channel after clipping; a single number applies to all channels.
        std: Standard deviation per channel, likewise.
        window: Intensity window ``(low, high)`` to which values are clipped first, in raw units, such as HU for CT; or
            one per channel, None for a channel that is not clipped.
        per_image: Standardise each channel of each image by its own mean and standard deviation, for uncalibrated
            units, as in MR; ``mean`` and ``std`` are then ignored.
    """

    mean: Tensor
    std: Tensor
    window: Tensor

    def __init__(
        self,
        in_channels: int,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        window: Sequence[Any] | None = None,
        per_image: bool = False,
    ) -> None:
        super().__init__()
        self.per_image = per_image
        self.clips = window is not None
        for name, value in (("mean", mean), ("std", std)):
            values = [float(value)] if isinstance(value, (float, Real)) else [float(v) for v in value]
            if len(values) not in (1, in_channels):
                raise InputError(
                    f"Normalisation has {len(values)} values for {name} but images have {in_channels} channels."
                )
            if name == "std" and min(values) <= 0:
                raise InputError(f"Normalisation needs standard deviations above zero, found {values}.")
            self.register_buffer(name, torch.tensor(values).expand(in_channels).clone())
        self.register_buffer("window", window_tensor(window))

    def forward(self, x: Tensor) -> Tensor:
        x = at_least_float32(x)
        x = normalise(x, self.mean, self.std, self.window, self.clips, self.per_image)
        return x.to(self.mean.dtype)  # dtype of the network


class Segmenter(nn.Module, HubMixin):
    """Segmentation network for images of any size: ``(B, C, H, W)`` in raw units to logits ``(B, K, H, W)``.

    Args:
        encoder: Returns five feature maps at strides 2 to 32 and lists their channels in ``out_channels``.
        decoder: Follows the contract in :mod:`mlla_seg.models.decoders`.
        num_classes: Number of classes K, including background.
        in_channels: Channels of the image.
        normalisation: Arguments of :class:`Normalise`; ``None`` leaves images unchanged.
        frame: ``(height, width)`` of the training patches, in which smaller images are centred; ``None`` disables this.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        num_classes: int,
        in_channels: int = 3,
        normalisation: Mapping[str, Any] | None = None,
        frame: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.frame = [int(n) for n in frame or (0, 0)]
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.stride = STRIDE
        self.normalise = Normalise(in_channels, **(normalisation or {}))
        self.encoder = encoder
        self.decoder = decoder
        self.head = nn.Conv2d(decoder.out_channels, num_classes, kernel_size=1, bias=False)

    def classify(self, x: Tensor) -> Tensor:
        """Return logits of decoded features, at the decoder's stride."""
        return self.head(self.decoder.enlarge(x))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.in_channels:
            raise InputError(f"The network expects images of {self.in_channels} channels, got {x.shape[1]}.")
        return self.segment(self.normalise(x))

    def segment(self, x: Tensor) -> Tensor:
        """Return logits of images that are already normalised, as augmented training images are."""
        height, width = x.shape[-2:]
        # The final crop is a negative padding, because a slice would restrict exported graphs either to sizes that are
        # cropped or to sizes that are not. Padded sizes are written as multiples, which keeps symbolic sizes short and
        # halves the time to record graphs of dynamic size.
        above, left = margin(height, self.frame[0]), margin(width, self.frame[1])
        rows = (at_least(height, self.frame[0]) + self.stride - 1) // self.stride
        columns = (at_least(width, self.frame[1]) + self.stride - 1) // self.stride
        padded = (rows * self.stride, columns * self.stride)
        below, right = padded[0] - height - above, padded[1] - width - left
        x = pad(x, above, below, left, right)
        logits = self.classify(self.decoder.decode(x, self.encoder(x)))
        if logits.shape[-2:] != padded:
            logits = F.interpolate(logits, padded, mode="bilinear", align_corners=False)
        return F.pad(logits, (-left, -right, -above, -below))


class MLLAUNet(Segmenter):
    """MLLA-UNet as published (arXiv 2410.23738), for images of any size and number of channels.

    The defaults give the published network: 28,505,312 parameters with nine classes.
    """

    def __init__(
        self,
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 4, 8, 4),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        decoder_depths: Sequence[int] = (2, 2, 2),
        num_classes: int = 9,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        normalisation: Mapping[str, Any] | None = None,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        encoder = MLLAEncoder(in_channels, embed_dim, depths, num_heads, mlp_ratio, drop_path_rate, stage_inputs=True)
        decoder = MLLAUNetDecoder(encoder.out_channels, num_heads, decoder_depths, mlp_ratio, drop_path_rate)
        super().__init__(encoder, decoder, num_classes, in_channels, normalisation)
        self.built_by = ("MLLAUNet", arguments)

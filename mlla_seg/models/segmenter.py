"""Segmenter: normalise, pad, encode, decode, classify, crop; images in raw units in, logits of the same size out.

Images are ``(B, C, H, W)``; with an encoder of three spatial axes they are volumes ``(B, C, D, H, W)``.
"""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data.framing import at_least, margin, pad
from mlla_seg.data.halving import STEPS, total_strides
from mlla_seg.data.normalisation import normalise, window_tensor
from mlla_seg.errors import InputError
from mlla_seg.models.arguments import require_numbers
from mlla_seg.models.axes import CONV, LINEAR_MODE
from mlla_seg.models.decoders import Decoder, MLLAUNetDecoder
from mlla_seg.models.hub import HubMixin
from mlla_seg.models.mlla import Encoder, MLLAEncoder
from mlla_seg.models.ops import at_least_float32

STRIDE = 2**STEPS
"""Stride of the coarsest feature map of encoders of images; the network pads images to multiples of it."""


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
        x = normalise(x, self.mean, self.std, self.window, self.clips, self.per_image, axes=x.ndim - 2)
        return x.to(self.mean.dtype)  # dtype of the network


class Segmenter(nn.Module, HubMixin):
    """Segmentation network for images of any size: ``(B, C, *spatial)`` in raw units to logits ``(B, K, *spatial)``.

    Args:
        encoder: Returns five feature maps, lists their channels in ``out_channels`` and the strides between them in
            ``strides``.
        decoder: Follows the contract in :mod:`mlla_seg.models.decoders`.
        num_classes: Number of classes K, including background.
        in_channels: Channels of the image.
        normalisation: Arguments of :class:`Normalise`; ``None`` leaves images unchanged.
        frame: Size of the training patches along each axis, such as ``(height, width)``, in which smaller images are
            centred; ``None`` disables this.

    Raises:
        InputError: The frame has another number of axes than the encoder.
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
        self.strides = total_strides(encoder.strides)
        axes = len(self.strides)
        self.frame = [int(n) for n in frame or [0] * axes]
        if len(self.frame) != axes:
            raise InputError(f"A network with {axes} spatial axes needs a frame of {axes} sizes, got {self.frame}.")
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.resize = LINEAR_MODE[axes]
        self.normalise = Normalise(in_channels, **(normalisation or {}))
        self.encoder = encoder
        self.decoder = decoder
        self.head = CONV[axes](decoder.out_channels, num_classes, 1, bias=False)

    def classify(self, x: Tensor) -> Tensor:
        """Return logits of decoded features, at the decoder's stride."""
        return self.head(self.decoder.enlarge(x))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.in_channels:
            raise InputError(f"The network expects images of {self.in_channels} channels, got {x.shape[1]}.")
        return self.segment(self.normalise(x))

    def segment(self, x: Tensor) -> Tensor:
        """Return logits of images that are already normalised, as augmented training images are."""
        # The final crop is a negative padding, because a slice would restrict exported graphs either to sizes that are
        # cropped or to sizes that are not. Padded sizes are written as multiples, which keeps symbolic sizes short and
        # halves the time to record graphs of dynamic size.
        margins: list[int] = []
        padded: list[int] = []
        for size, frame, stride in zip(x.shape[2:], self.frame, self.strides):  # noqa: B905 - TorchScript
            before = margin(size, frame)
            steps = (at_least(size, frame) + stride - 1) // stride
            padded.append(steps * stride)
            margins = [before, steps * stride - size - before] + margins  # noqa: RUF005
        x = pad(x, margins)
        logits = self.classify(self.decoder.decode(x, self.encoder(x)))
        if list(logits.shape[2:]) != padded:
            logits = F.interpolate(logits, padded, mode=self.resize, align_corners=False)
        return F.pad(logits, [-size for size in margins])


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
        require_numbers("MLLAUNet", arguments)
        encoder = MLLAEncoder(in_channels, embed_dim, depths, num_heads, mlp_ratio, drop_path_rate, stage_inputs=True)
        decoder = MLLAUNetDecoder(encoder.out_channels, num_heads, decoder_depths, mlp_ratio, drop_path_rate)
        super().__init__(encoder, decoder, num_classes, in_channels, normalisation)
        self.built_by = ("MLLAUNet", arguments)

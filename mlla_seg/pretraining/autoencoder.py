"""Masked autoencoder: an encoder sees some patches of an image, and a light decoder draws the others.

Source: SparK (arXiv 2301.03580), and MAE (arXiv 2111.06377) for targets that are normalised per patch. Encoders through
which masks cannot be kept see the image with its masked patches filled by zeros, the mean of normalised images, as in
SimMIM (arXiv 2111.09886).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data.framing import pad
from mlla_seg.models.masking import masked, visible_at, why_not
from mlla_seg.models.mlla import ConvBN, Encoder, MapNorm
from mlla_seg.models.ops import at_least_float32, to_channels_first, to_channels_last
from mlla_seg.models.segmenter import STRIDE
from mlla_seg.training.distributed import sum_over_processes

PATCHES = (8, 16, 32)
"""Sides of masked patches in pixels: divisors of the encoder's coarsest stride."""
FINEST = 4
"""Stride at which the decoder ends; each of its places draws a square of pixels of this side."""


class LightDecoder(nn.Module):
    """Feature maps at strides 4 to 32 to an image: each is projected and added to the enlarged coarser one.

    Args:
        channels: Channels of the feature maps, from fine to coarse.
        out_channels: Channels of the image.
        width: Channels of the decoder.
        fills: Put a learned token at each masked place; otherwise the encoder's features stay there.
    """

    def __init__(self, channels: Sequence[int], out_channels: int, width: int = 64, fills: bool = True) -> None:
        super().__init__()
        self.fills = fills
        self.norms = nn.ModuleList(MapNorm(count) for count in channels)
        self.tokens = nn.ParameterList(nn.Parameter(torch.randn(count) * 0.02) for count in channels if fills)
        self.enter = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.levels = nn.ModuleList(nn.Sequential(ConvBN(width, width, (3, 3)), nn.ReLU()) for _ in channels)
        self.draw = nn.Conv2d(width, out_channels * FINEST**2, 1)

    def forward(self, features: Sequence[Tensor], visible: Tensor) -> Tensor:
        """Return the image ``(B, C, H, W)`` of feature maps ``(B, C_i, H / s_i, W / s_i)``, from fine to coarse."""
        x: Tensor | None = None
        for i in reversed(range(len(features))):
            feature = self.norms[i](features[i])
            if self.fills:
                places = visible_at(visible, *feature.shape[2:])[..., None]
                token = self.tokens[i].to(feature.dtype)
                feature = to_channels_first(torch.where(places, to_channels_last(feature), token))
            entered = self.enter[i](feature)
            x = entered if x is None else entered + F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.levels[i](x)
        return F.pixel_shuffle(self.draw(x), FINEST)


class MaskedAutoencoder(nn.Module):
    """Encoder and light decoder: normalised images ``(B, C, H, W)`` to drawings of the same shape.

    Args:
        encoder: Five feature maps at strides 2 to 32, of which the last four are used.
        width: Channels of the decoder.
    """

    def __init__(self, encoder: Encoder, width: int = 64) -> None:
        super().__init__()
        self.encoder = encoder
        self.why_filled = why_not(encoder)
        """Why masked patches are filled instead of kept empty; None if they are kept empty."""
        self.decoder = LightDecoder(encoder.out_channels[1:], encoder.in_channels, width, fills=not self.why_filled)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """Draw images of which only some patches are seen, ``(B, h, w)`` bool for :func:`padded_size`; or all."""
        height, width = image.shape[2:]
        rows, columns = padded_size((height, width))
        if visible is None:
            visible = image.new_ones(len(image), rows // STRIDE, columns // STRIDE, dtype=torch.bool)
        image = pad(image, [0, columns - width, 0, rows - height])
        if self.why_filled is None:
            with masked(self.encoder, visible):
                features = self.encoder(image)
        else:
            features = self.encoder(image.masked_fill(~visible_at(visible, rows, columns)[:, None], 0))
        return self.decoder(features[1:], visible)[..., :height, :width]


def padded_size(size: Sequence[int]) -> tuple[int, int]:
    """Return the height and width of images as the encoder receives them, multiples of its coarsest stride."""
    height, width = (-(-side // STRIDE) * STRIDE for side in size)
    return height, width


def targets(image: Tensor, visible: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return images whose patches have mean 0 and deviation 1, and both of each patch; see :func:`patch_statistics`."""
    patch = padded_size(image.shape[2:])[0] // visible.shape[1]
    mean, deviation = patch_statistics(at_least_float32(image), valid, patch)
    return (image - mean) / deviation, mean, deviation


def patch_statistics(image: Tensor, valid: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each patch over its channels and valid pixels.

    Args:
        image: ``(B, C, H, W)``.
        valid: ``(B, H, W)`` bool.
        patch: Side of patches in pixels.

    Returns:
        Both ``(B, 1, H, W)``, repeated for the pixels of a patch.
    """
    height, width = image.shape[2:]
    rows, columns = padded_size((height, width))
    own = F.pad(valid[:, None].to(image.dtype), (0, columns - width, 0, rows - height))
    image = F.pad(image, (0, columns - width, 0, rows - height)).masked_fill(own == 0, 0)
    share = F.avg_pool2d(own, patch).clamp(min=1e-6)
    mean = F.avg_pool2d(image.mean(dim=1, keepdim=True), patch) / share
    mean = mean.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    squares = ((image - mean) ** 2).mean(dim=1, keepdim=True) * own
    deviation = torch.sqrt(F.avg_pool2d(squares, patch) / share + 1e-6)
    deviation = deviation.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return mean[..., :height, :width], deviation[..., :height, :width]


def reconstruction_loss(drawn: Tensor, target: Tensor, visible: Tensor, valid: Tensor) -> Tensor:
    """Return the mean squared error over masked pixels with data, of all processes together.

    Args:
        drawn: Drawings ``(B, C, H, W)``.
        target: Images ``(B, C, H, W)``.
        visible: Patches that the encoder has seen, ``(B, h, w)`` bool.
        valid: Pixels with data, ``(B, H, W)`` bool.
    """
    height, width = target.shape[2:]
    counted = valid & ~visible_at(visible, *padded_size((height, width)))[:, :height, :width]
    errors = ((at_least_float32(drawn) - at_least_float32(target)) ** 2).mean(dim=1)
    total = torch.stack([errors.masked_fill(~counted, 0).sum(), counted.sum().to(errors.dtype)])
    total = sum_over_processes(total)
    return total[0] / total[1].clamp(min=1)

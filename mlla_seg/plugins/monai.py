"""MLLA encoders for MONAI: ``import mlla_seg.plugins.monai``, then ``FlexibleUNet(backbone="mlla_tiny", ...)``.

Images and volumes have sides that are multiples of 32, as for MONAI's own encoders. Nothing is downloaded; load a local
file of released weights with ``mlla_seg.load_pretrained(model, "mlla_t.pth")``. Those are for images; for volumes see
:func:`mlla_seg.models.inflation.inflated`.
"""

from collections.abc import Sequence
from typing import Any

try:
    from monai.networks.blocks import BaseEncoder
except ModuleNotFoundError as error:
    raise ImportError("mlla_seg.plugins.monai needs monai: pip install 'mlla_seg[monai]'") from error

from monai.networks.nets import FLEXUNET_BACKBONE
from torch import Tensor, nn

from mlla_seg.models.mlla import SIZES
from mlla_seg.plugins.dense import DenseEncoder
from mlla_seg.plugins.names import accept_other_names


class MonaiEncoder(nn.Module, BaseEncoder):
    """MLLA encoder with MONAI's interface: ``(B, C, *spatial)`` to five feature maps at strides 2 to 32.

    Args:
        spatial_dims: 2 for images, 3 for volumes.
        in_channels: Channels of the image.
        pretrained: Must be ``False``; for weights see the module docstring.
        embed_dim: Channels at stride 4; see :class:`~mlla_seg.plugins.dense.DenseEncoder`.
        depths: Blocks of the four stages.
        num_heads: Attention heads of the four stages.
        drop_path_rate: Stochastic-depth rate.

    Raises:
        ValueError: ``spatial_dims`` is neither 2 nor 3, or ``pretrained`` is true.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        pretrained: bool = False,
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 4, 8, 4),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        drop_path_rate: float = 0.0,
    ) -> None:
        if pretrained:
            raise ValueError(
                "MLLA encoders download nothing: set pretrained=False, then load a file of released weights with "
                'mlla_seg.load_pretrained(model, "mlla_t.pth").'
            )
        super().__init__()
        size = (in_channels, embed_dim, depths, num_heads)
        self.mlla = DenseEncoder(*size, drop_path_rate=drop_path_rate, dims=spatial_dims)
        accept_other_names(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.mlla(x)

    @classmethod
    def get_encoder_names(cls) -> list[str]:
        """Return the names of the sizes, for MONAI's registry."""
        return list(SIZES)

    @classmethod
    def num_outputs(cls) -> list[int]:
        """Return the number of feature maps of every size: five."""
        return [5] * len(SIZES)

    @classmethod
    def num_channels_per_output(cls) -> list[tuple[int, ...]]:
        """Return the channels of the five feature maps of every size."""
        return [tuple(size["embed_dim"] * 2**i // 2 for i in range(5)) for size in SIZES.values()]

    @classmethod
    def get_encoder_parameters(cls) -> list[dict[str, Any]]:
        """Return the arguments of every size; new dictionaries each time, because FlexibleUNet modifies them."""
        return [{"spatial_dims": 2, "in_channels": 3, "pretrained": False, **size} for size in SIZES.values()]


FLEXUNET_BACKBONE.register_class(MonaiEncoder)

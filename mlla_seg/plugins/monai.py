"""MLLA encoders in MONAI: ``import mlla_seg.plugins.monai``, then ``FlexibleUNet(backbone="mlla_tiny", ...)``.

Images of two axes whose sizes are multiples of 32, as for the encoders that MONAI has itself. Nothing is downloaded: a
local file of released weights is loaded with ``mlla_seg.load_pretrained(model, "mlla_t.pth")``.
"""

from __future__ import annotations

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


class MonaiEncoder(nn.Module, BaseEncoder):
    """An MLLA encoder behind MONAI's contract: ``(B, C, H, W)`` to five maps, number i at 1 / 2^(i + 1).

    Args:
        spatial_dims: 2; slices of a volume go through it one by one.
        in_channels: Channels of the image.
        pretrained: ``False``; see the top of this file for weights.
        embed_dim: As :class:`~mlla_seg.plugins.dense.DenseEncoder`, and so the rest.
        depths: Blocks of all four stages.
        num_heads: Heads of all four stages.
        drop_path_rate: Stochastic depth.

    Raises:
        ValueError: Other spatial axes, or weights to be downloaded.
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
        if spatial_dims != 2:
            raise ValueError(f"MLLA encoders see images of 2 spatial axes, got spatial_dims={spatial_dims}.")
        if pretrained:
            raise ValueError(
                "MLLA encoders download nothing: give pretrained=False, then "
                'mlla_seg.load_pretrained(model, "mlla_t.pth") with a file of released weights.'
            )
        super().__init__()
        self.mlla = DenseEncoder(in_channels, embed_dim, depths, num_heads, drop_path_rate=drop_path_rate)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.mlla(x)

    @classmethod
    def get_encoder_names(cls) -> list[str]:
        """The sizes, as MONAI's registry asks for them."""
        return list(SIZES)

    @classmethod
    def num_outputs(cls) -> list[int]:
        """Five maps for every size."""
        return [5] * len(SIZES)

    @classmethod
    def num_channels_per_output(cls) -> list[tuple[int, ...]]:
        """Channels of the five maps for every size."""
        return [tuple(size["embed_dim"] * 2**i // 2 for i in range(5)) for size in SIZES.values()]

    @classmethod
    def get_encoder_parameters(cls) -> list[dict[str, Any]]:
        """Arguments for every size; new dictionaries each time, as FlexibleUNet writes into them."""
        return [{"spatial_dims": 2, "in_channels": 3, "pretrained": False, **size} for size in SIZES.values()]


FLEXUNET_BACKBONE.register_class(MonaiEncoder)

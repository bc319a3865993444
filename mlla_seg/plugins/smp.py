"""MLLA encoders in segmentation_models_pytorch: ``import mlla_seg.plugins.smp``, then ``smp.Unet("mlla_tiny", ...)``.

Every decoder, depths 1 to 5, any number of channels, output strides 8 and 16 where a decoder dilates. Nothing is
downloaded: ``encoder_weights`` stays ``None``, and a local file of released weights is loaded with
``mlla_seg.load_pretrained(model, "mlla_t.pth")``. torchgeo builds its tasks on smp: with this import,
``SemanticSegmentationTask(model="unet", backbone="mlla_tiny", ...)`` knows the encoders too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

try:
    import segmentation_models_pytorch as smp
except ModuleNotFoundError as error:
    raise ImportError(f"mlla_seg.plugins.smp needs {error.name}: pip install 'mlla_seg[smp]'") from error

import torch
from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import Tensor, nn

from mlla_seg.models.mlla import SIZES
from mlla_seg.plugins.dense import DenseEncoder


class SmpEncoder(nn.Module, EncoderMixin):
    """An MLLA encoder behind smp's contract: ``forward`` gives depth + 1 maps, the first is the image itself.

    Args:
        depth: Number of maps below the image; only their stages are built.
        output_stride: Smallest resolution, 32, or 16 and 8 by dilation.
        embed_dim: As :class:`~mlla_seg.plugins.dense.DenseEncoder`, and so the rest.
        depths: Blocks of all four stages.
        num_heads: Heads of all four stages.
        drop_path_rate: Stochastic depth.
    """

    def __init__(
        self,
        depth: int = 5,
        output_stride: int = 32,
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 4, 8, 4),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        drop_path_rate: float = 0.0,
    ) -> None:
        if not 1 <= depth <= 5:
            raise ValueError(f"depth of an MLLA encoder is 1 to 5, got {depth}.")
        super().__init__()
        stages = depth - 1
        self.mlla = DenseEncoder(3, embed_dim, depths[:stages], num_heads[:stages], drop_path_rate=drop_path_rate)
        self._depth = depth
        self._in_channels = 3
        self._output_stride = output_stride
        self._out_channels = [3, *self.mlla.out_channels]

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [x]
        features.extend(self.mlla(x))
        return features

    @torch.jit.unused
    def get_stages(self) -> dict[int, Sequence[nn.Module]]:
        """The modules from which each stride on could be dilated instead."""
        pairs = list(zip(self.mlla.downsamples, self.mlla.stages, strict=True))
        return {2 ** (i + 2): pair for i, pair in enumerate(pairs) if i > 0}


def register() -> None:
    """Adds every size to smp's registry; once or often makes no difference."""
    for name, size in SIZES.items():
        params: dict[str, Any] = {**size, "depths": tuple(size["depths"])}
        smp.encoders.encoders[name] = {"encoder": SmpEncoder, "pretrained_settings": {}, "params": params}


register()

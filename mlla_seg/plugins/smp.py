"""MLLA encoders for segmentation_models_pytorch: ``import mlla_seg.plugins.smp``, then ``smp.Unet("mlla_tiny", ...)``.

Supports every decoder, depths 1 to 5, any number of channels, and output strides 8 and 16 for dilating decoders.
Nothing is downloaded; leave ``encoder_weights`` at ``None`` and load a local file of released weights with
``mlla_seg.load_pretrained(model, "mlla_t.pth")``. torchgeo builds its tasks on smp, so this import also enables
``SemanticSegmentationTask(model="unet", backbone="mlla_tiny", ...)``.
"""

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
from mlla_seg.plugins.names import accept_other_names


class NoDownloads(dict[str, Any]):
    """Empty table of an encoder's downloads, which answers every look-up of smp with what to do instead.

    smp looks in the table and in its ``keys()``, and would say only that it has no such name.
    """

    def __contains__(self, name: object) -> bool:
        raise ValueError(
            "MLLA encoders download nothing, neither weights nor numbers of preprocessing: set encoder_weights=None "
            "(smp's default is 'imagenet'; in torchgeo, weights=None), then load a file of released weights with "
            'mlla_seg.load_pretrained(model, "mlla_t.pth").'
        )

    def keys(self) -> Any:
        return self


class SmpEncoder(nn.Module, EncoderMixin):
    """MLLA encoder with smp's interface: ``forward`` returns the image followed by ``depth`` feature maps.

    Args:
        depth: Number of feature maps; only their stages are built.
        output_stride: Stride of the coarsest feature map: 32, or 16 or 8 by dilation.
        embed_dim: Channels at stride 4; see :class:`~mlla_seg.plugins.dense.DenseEncoder`.
        depths: Blocks of the four stages.
        num_heads: Attention heads of the four stages.
        drop_path_rate: Stochastic-depth rate.
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
            raise ValueError(f"depth of an MLLA encoder must be 1 to 5, got {depth}.")
        super().__init__()
        stages = depth - 1
        self.mlla = DenseEncoder(3, embed_dim, depths[:stages], num_heads[:stages], drop_path_rate=drop_path_rate)
        accept_other_names(self)
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
        """Return the modules of each stride, which smp dilates for smaller output strides."""
        pairs = list(zip(self.mlla.downsamples, self.mlla.stages, strict=True))
        return {2 ** (i + 2): pair for i, pair in enumerate(pairs) if i > 0}


def register() -> None:
    """Add every size to smp's registry; idempotent."""
    for name, size in SIZES.items():
        params: dict[str, Any] = {**size, "depths": tuple(size["depths"])}
        smp.encoders.encoders[name] = {"encoder": SmpEncoder, "pretrained_settings": NoDownloads(), "params": params}


register()

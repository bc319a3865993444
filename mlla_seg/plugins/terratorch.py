"""MLLA for terratorch: ``import mlla_seg.plugins.terratorch``, then name the encoder as a backbone.

``EncoderDecoderFactory().build_model("segmentation", "mlla_tiny", "UNetDecoder", ...)`` builds on it, and so does a
config: ``python -m mlla_seg.plugins.terratorch fit --config task.yaml`` is terratorch's command line with our encoders.
Nothing is downloaded; ``backbone_ckpt_path`` loads a local file.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

if find_spec("terratorch") is None:
    raise ImportError("mlla_seg.plugins.terratorch needs terratorch: pip install 'mlla_seg[terratorch]'")

from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

from mlla_seg.errors import InputError
from mlla_seg.models.mlla import SIZES
from mlla_seg.models.weights import load_pretrained
from mlla_seg.plugins.dense import DenseEncoder
from mlla_seg.plugins.names import accept_other_names
from mlla_seg.progress import note


class TerratorchEncoder(nn.Module):
    """MLLA encoder with terratorch's interface: ``(B, C, H, W)`` to five feature maps at strides 2 to 32.

    Args:
        embed_dim: Channels at stride 4; see :class:`~mlla_seg.plugins.dense.DenseEncoder`.
        depths: Blocks of the four stages.
        num_heads: Attention heads of the four stages.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic-depth rate.
        pretrained: Must be ``False``; nothing is downloaded.
        ckpt_path: Local file of weights, as for :func:`mlla_seg.load_pretrained`.

    Raises:
        InputError: ``pretrained`` is true, or the file does not fit.
    """

    patch_size = 32
    """Tells terratorch to pad images; it pads to multiples of twice this number."""

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        pretrained: bool = False,
        ckpt_path: str | None = None,
    ) -> None:
        if pretrained:
            raise InputError("MLLA encoders download nothing: set backbone_pretrained: false, and backbone_ckpt_path.")
        super().__init__()
        self.mlla = DenseEncoder(in_channels, embed_dim, depths, num_heads, drop_path_rate=drop_path_rate)
        self.out_channels = self.mlla.out_channels
        accept_other_names(self)
        if ckpt_path:
            note(f"{ckpt_path}: {load_pretrained(self, ckpt_path)}")

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.mlla(x)


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def create(**options: Any) -> nn.Module:
        return TerratorchEncoder(**{**SIZES[name], **options})

    create.__name__ = create.__qualname__ = name  # by which terratorch registers it
    return create


for _name in SIZES:
    TERRATORCH_BACKBONE_REGISTRY.register(_entrypoint(_name))

if __name__ == "__main__":
    from terratorch.__main__ import main

    main()

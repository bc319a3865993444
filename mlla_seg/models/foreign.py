"""Encoders of timm and segmentation_models_pytorch by name, as what MLLA is compared with.

``timm/convnext_tiny`` or ``smp/resnet34`` wherever an encoder is named. smp builds both and knows where their feature
maps are; weights start random, as nothing is downloaded here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mlla_seg.errors import InputError, lookup
from mlla_seg.models.mlla import Encoder


class ForeignEncoder(Encoder):
    """An encoder of another library: ``(B, C, H, W)`` to five maps at strides 2 to 32, H and W multiples of 32.

    Transformers in these libraries begin at stride 4: their first map has no channels.

    Args:
        name: ``timm/NAME`` or ``smp/NAME``.
        in_channels: Channels of the image.
        output_stride: Coarsest resolution, 32, or less where the encoder can be dilated.

    Raises:
        InputError: An unknown name, or a network without such maps.
    """

    def __init__(self, name: str, in_channels: int = 3, output_stride: int = 32) -> None:
        super().__init__()
        self.encoder = _build(name, in_channels, output_stride)
        self.out_channels = list(self.encoder.out_channels[1:])

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.encoder(x)[1:]


def _build(name: str, in_channels: int, output_stride: int) -> Any:
    from segmentation_models_pytorch.encoders import get_encoder
    from timm.models import get_pretrained_cfg_value

    library, _, own_name = name.partition("/")
    names = lookup(_names(), library, "library of encoders")
    lookup(dict.fromkeys(names), _architecture(own_name) if library == "timm" else own_name, f"encoder of {library}")
    build = partial(
        get_encoder,
        f"tu-{own_name}" if library == "timm" else own_name,
        in_channels=in_channels,
        weights=None,
        output_stride=output_stride,
    )
    fixed = library == "timm" and get_pretrained_cfg_value(_architecture(own_name), "fixed_input_size")
    try:
        try:
            encoder = build(strict_img_size=False) if fixed else build()  # Swin takes other sizes when told so
        except TypeError as error:
            if "strict_img_size" not in str(error):
                raise
            encoder = build()  # MaxViT knows no such option
        with torch.no_grad():
            maps = encoder.eval()(torch.zeros(1, in_channels, 64, 96))
    except Exception as error:  # whatever these libraries answer with
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        dilated = f" dilated to stride {output_stride}" if output_stride < 32 else ""
        raise InputError(
            f"{name} cannot be an encoder{dilated} here: {reason} (any multiples of 32 should do; tried 64 x 96)."
        ) from error
    strides = [64 // feature.shape[2] for feature in maps]
    expected = [min(2**i, output_stride) for i in range(6)]
    if strides != expected:
        raise InputError(f"{name} cannot be an encoder here: its maps are at strides {strides}, not {expected}.")
    return encoder.train()


def elsewhere(name: str) -> list[str]:
    """How an encoder that is not ours is named, such as ``smp/resnet34`` for ``resnet34``."""
    return [f"{library}/{name}" for library, names in _names().items() if name in names]


def _names() -> dict[str, list[str]]:
    import timm
    from segmentation_models_pytorch.encoders import encoders

    return {"timm": timm.list_models(), "smp": list(encoders)}


def _architecture(name: str) -> str:
    return name.split(".")[0]  # timm names weights after a dot

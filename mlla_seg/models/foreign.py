"""Encoders of timm and segmentation_models_pytorch by name, as what MLLA is compared with.

``timm/convnext_tiny`` or ``smp/resnet34`` wherever an encoder is named. smp builds both and knows where their feature
maps are; weights start random, as nothing is downloaded here.
"""

from __future__ import annotations

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
    import timm
    from segmentation_models_pytorch.encoders import encoders, get_encoder

    library, _, own_name = name.partition("/")
    known = {"timm": timm.list_models(), "smp": list(encoders)}
    architecture = own_name.split(".")[0] if library == "timm" else own_name  # timm names weights after a dot
    lookup(dict.fromkeys(lookup(known, library, "library of encoders")), architecture, f"encoder of {library}")
    options = {}
    if library == "timm" and timm.models.get_pretrained_cfg_value(architecture, "fixed_input_size"):
        options["strict_img_size"] = False  # Swin and its kin take other sizes when told so
    try:
        encoder = get_encoder(
            f"tu-{own_name}" if library == "timm" else own_name,
            in_channels=in_channels,
            weights=None,
            output_stride=output_stride,
            **options,
        )
        with torch.no_grad():
            maps = encoder.eval()(torch.zeros(1, in_channels, 64, 96))
    except Exception as error:  # whatever these libraries answer with
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        dilated = f" dilated to stride {output_stride}" if output_stride < 32 else ""
        raise InputError(f"{name} cannot be an encoder{dilated} here: {reason}") from error
    strides = [64 // feature.shape[2] for feature in maps]
    expected = [min(2**i, output_stride) for i in range(6)]
    if strides != expected:
        raise InputError(f"{name} cannot be an encoder here: its maps are at strides {strides}, not {expected}.")
    return encoder.train()

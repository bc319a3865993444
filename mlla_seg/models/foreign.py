"""Encoders of timm and segmentation_models_pytorch by name, as what MLLA is compared with.

``timm/convnext_tiny`` or ``smp/resnet34`` wherever an encoder is named. smp builds both and knows where their feature
maps are; weights start random, as nothing is downloaded here, and come from files by ``load_pretrained``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

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
        self.name = name
        self.in_channels = in_channels
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


def find_foreign(module: nn.Module) -> tuple[str, ForeignEncoder] | None:
    """The encoder of another library in a network, if there is one, and what stands before its parameters' names."""
    places = ((f"{name}." if name else "", part) for name, part in module.named_modules())
    return next(((place, part) for place, part in places if isinstance(part, ForeignEncoder)), None)


def names_in(place: str, encoder: ForeignEncoder, given: Collection[str], source: str) -> dict[str, str]:
    """The names of weights, of the library's own network or of anything that holds it, by those of a network of ours.

    A file has ``conv1.weight``, ours ``encoder.encoder.conv1.weight``; timm's feature extractors have ``stages_0.`` for
    its networks' ``stages.0.``.

    Args:
        place: What stands before the encoder's names in the network.
        encoder: The encoder.
        given: Names of the weights.
        source: Where they are from, for messages.

    Returns:
        For each name the network's, of what belongs to the encoder and of what is beside it.

    Raises:
        InputError: Weights of another network or size.
    """
    targets = [name for name in encoder.state_dict() if not name.endswith("num_batches_tracked")]
    best: tuple[list[str], str, dict[str, str]] | None = None
    for spelling in _SPELLINGS:
        names = {spelling(name): name for name in targets}
        first = next(iter(names))
        for start in [name.removesuffix(first) for name in given if f".{name}".endswith(f".{first}")]:
            lacking = [name for name in names if start + name not in given]
            if best is None or len(lacking) < len(best[0]):
                best = lacking, start, names
    if best is None or best[0]:
        lacking = best[0] if best else [_SPELLINGS[-1](name) for name in targets]
        raise InputError(
            f"{source} lacks {len(lacking)} of the {len(targets)} weights of {encoder.name}, such as {lacking[0]}: it "
            "is of another network, or names them in another way than that library does."
        )
    _, start, names = best
    theirs = _numbered(name.removeprefix(start) for name in given if name.startswith(start))
    ours = _numbered(names)
    if more := sorted(f"{before}{number}" for before, number in theirs - ours if before in dict(ours)):
        raise InputError(
            f"{source} has {len(more)} blocks that {encoder.name} has not, such as {start}{more[0]}: "
            "the weights are of another size. Create the network of that size."
        )
    own = {start + name: place + target for name, target in names.items()}
    root = start[: max(0, start.find(place))]
    return {name: own.get(name, name.removeprefix(root)) for name in given}


def _unflatten(name: str) -> str:
    return re.sub(r"^([^.]+)_(\d+)\.", r"\1.\2.", name)


def _without(prefix: str, name: str) -> str:
    return name.removeprefix(prefix)


# From ours to the library's: as it is, within our class, within smp's for timm, within timm's around a whole network.
_SPELLINGS: list[Callable[[str], str]] = [
    *(partial(_without, prefix) for prefix in ("", "encoder.", "encoder.model.", "encoder.model.model.")),
    lambda name: _unflatten(name.removeprefix("encoder.model.")),
]


def _numbered(names: Iterable[str]) -> set[tuple[str, str]]:
    """The numbered parts in names, such as ``("layer1.", "0")``."""
    return {(name[: part.start()], part[0]) for name in names for part in re.finditer(r"(?<=\.)\d+(?=\.)", name)}

"""Encoders of timm and segmentation_models_pytorch by name, as baselines for MLLA.

Use ``timm/convnext_tiny`` or ``smp/resnet34`` wherever an encoder is named. Both are built through smp, which extracts
their feature maps. Nothing is downloaded: weights start random and can be loaded from files with ``load_pretrained``.
"""

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mlla_seg.errors import InputError, lookup
from mlla_seg.models.mlla import Encoder


class ForeignEncoder(Encoder):
    """Encoder of another library: ``(B, C, H, W)``, H and W multiples of 32, to five feature maps at strides 2 to 32.

    Transformers of these libraries begin at stride 4; their first feature map has no channels.

    Args:
        name: ``timm/NAME`` or ``smp/NAME``.
        in_channels: Channels of the image.
        output_stride: Stride of the coarsest feature map: 32, or less if the encoder can be dilated.

    Raises:
        InputError: Unknown name, or a network without such feature maps.
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
            encoder = build(strict_img_size=False) if fixed else build()  # lets Swin accept other sizes
        except TypeError as error:
            if "strict_img_size" not in str(error):
                raise
            encoder = build()  # MaxViT lacks this option
        with torch.no_grad():
            maps = encoder.eval()(torch.zeros(1, in_channels, 64, 96))
    except Exception as error:  # these libraries raise many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        dilated = f" dilated to stride {output_stride}" if output_stride < 32 else ""
        raise InputError(
            f"{name} cannot be used as an encoder{dilated}: {reason} (it must accept multiples of 32; tried 64 x 96)."
        ) from error
    strides = [64 // feature.shape[2] for feature in maps]
    expected = [min(2**i, output_stride) for i in range(6)]
    if strides != expected:
        raise InputError(f"{name} cannot be used as an encoder: its strides are {strides}, expected {expected}.")
    return encoder.train()


def elsewhere(name: str) -> list[str]:
    """Return the names of an encoder in other libraries, such as ``smp/resnet34`` for ``resnet34``."""
    return [f"{library}/{name}" for library, names in _names().items() if name in names]


def _names() -> dict[str, list[str]]:
    import timm
    from segmentation_models_pytorch.encoders import encoders

    return {"timm": timm.list_models(), "smp": list(encoders)}


def _architecture(name: str) -> str:
    return name.split(".")[0]  # timm appends the name of the weights after a dot


def find_foreign(module: nn.Module) -> tuple[str, ForeignEncoder] | None:
    """Return the first encoder of another library in a network with the prefix of its parameter names, if any."""
    places = ((f"{name}." if name else "", part) for name, part in module.named_modules())
    return next(((place, part) for place, part in places if isinstance(part, ForeignEncoder)), None)


def published_moments(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and standard deviation, in 0..255, by which timm normalised the images of its encoders.

    Args:
        name: ``timm/NAME``; smp tells these numbers only online, so there are none for its encoders.
    """
    from timm.models import get_pretrained_cfg

    library, _, own_name = name.partition("/")
    said = get_pretrained_cfg(own_name, allow_unregistered=False) if library == "timm" else None
    if said is None:
        return None
    mean, std = (tuple(255 * value for value in values) for values in (said.mean, said.std))
    return mean, std


def library_names(
    place: str, encoder: ForeignEncoder, given: Mapping[str, Tensor], source: str
) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """Return weights by names that :func:`names_in` knows, and the mapping of these names.

    Weights by the names of the network's authors are renamed as timm's own loader does, such as those of ConvNeXt or
    Swin in their first release.

    Raises:
        InputError: See :func:`names_in`.
    """
    try:
        return given, names_in(place, encoder, given, source)
    except InputError:
        if renamed := _renamed_by_timm(encoder.name, given):
            with suppress(InputError):
                return renamed, names_in(place, encoder, renamed, source)
        raise


def _renamed_by_timm(name: str, given: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return weights as timm's filter for this architecture renames them; none if it has none or cannot."""
    library, _, own_name = name.partition("/")
    if library != "timm":
        return None
    import timm

    model = timm.create_model(own_name, pretrained=False)
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return rename and rename(dict(given), model)
    except Exception:  # made for one release, it meets other weights here
        return None


def names_in(place: str, encoder: ForeignEncoder, given: Collection[str], source: str) -> dict[str, str]:
    """Map names of given weights, of the library's own network or one that contains it, to those of our network.

    For example, ``conv1.weight`` in a file is our ``encoder.encoder.conv1.weight``, and timm's feature extractors have
    ``stages_0.`` where its networks have ``stages.0.``.

    Args:
        place: Prefix of the encoder's parameter names in our network.
        encoder: The encoder.
        given: Names of the weights.
        source: Origin of the weights, for messages.

    Returns:
        Our name for each given name, both of the encoder and beside it.

    Raises:
        InputError: The weights belong to another network or size.
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
            "belongs to another network or does not use the library's parameter names."
        )
    _, start, names = best
    theirs = _numbered(name.removeprefix(start) for name in given if name.startswith(start))
    ours = _numbered(names)
    if more := sorted(f"{before}{number}" for before, number in theirs - ours if before in dict(ours)):
        raise InputError(
            f"{source} has {len(more)} blocks that {encoder.name} lacks, such as {start}{more[0]}: "
            "the weights are for a network of another size. Create the network in that size."
        )
    own = {start + name: place + target for name, target in names.items()}
    root = start[: max(0, start.find(place))]
    return {name: own.get(name, name.removeprefix(root)) for name in given}


def _unflatten(name: str) -> str:
    return re.sub(r"^([^.]+)_(\d+)\.", r"\1.\2.", name)


def _without(prefix: str, name: str) -> str:
    return name.removeprefix(prefix)


# From our names to the library's: unchanged, within our class, smp's class for timm, timm's class for a whole network.
_SPELLINGS: list[Callable[[str], str]] = [
    *(partial(_without, prefix) for prefix in ("", "encoder.", "encoder.model.", "encoder.model.model.")),
    lambda name: _unflatten(name.removeprefix("encoder.model.")),
]


def _numbered(names: Iterable[str]) -> set[tuple[str, str]]:
    """Return the numbered parts of names, such as ``("layer1.", "0")``."""
    return {(name[: part.start()], part[0]) for name in names for part in re.finditer(r"(?<=\.)\d+(?=\.)", name)}

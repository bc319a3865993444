"""Loading of weights from other sources; the only module that knows their parameter names.

The authors' files hold the state dict directly or under ``model`` (or ``state_dict``); their RoPE tables are derivable
and dropped. In any library, the parameters of an MLLA encoder have the same names behind a prefix. This prefix becomes
``encoder.``, and the part of it shared with other parameters (``decoder.``, ``norm.``, ``head.``) is removed from them.
Encoders of other libraries keep their libraries' names, see :func:`mlla_seg.models.foreign.names_in`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from mlla_seg.errors import InputError
from mlla_seg.models.foreign import find_foreign, library_names
from mlla_seg.models.weight_files import read_state_dict, require_weights

# From the authors' names to ours; all patterns are applied to every name, in order.
RENAMES = [
    (r"^patch_embed\.conv1\.", r"encoder.stem.conv1."),
    (r"^patch_embed\.conv2\.0\.", r"encoder.stem.conv2."),
    (r"^patch_embed\.conv2\.1\.", r"encoder.stem.conv3."),
    (r"^patch_embed\.conv3\.0\.", r"encoder.stem.conv4."),
    (r"^patch_embed\.conv3\.1\.", r"encoder.stem.conv5."),
    (r"^layers\.(\d)\.blocks\.", r"encoder.stages.\1.blocks."),
    (r"^layers\.0\.downsample\.", r"encoder.downsamples.1."),  # ours precedes its stage, theirs ends the previous one
    (r"^layers\.1\.downsample\.", r"encoder.downsamples.2."),
    (r"^layers\.2\.downsample\.", r"encoder.downsamples.3."),
    (r"^(encoder\.downsamples\.\d)\.conv\.0\.conv\.", r"\1.expand."),
    (r"^(encoder\.downsamples\.\d)\.conv\.1\.conv\.", r"\1.conv."),
    (r"^(encoder\.downsamples\.\d)\.conv\.2\.", r"\1.reduce."),
    (r"^norm(\d)\.", r"encoder.norms.\1."),
    (r"^layers_up\.0\.(conv|norm)\.", r"layers_up.0.upsample.\1."),
    (r"^layers_up\.(\d)\.upsample\.conv\.0\.conv\.", r"decoder.levels.\1.up.expand."),
    (r"^layers_up\.(\d)\.upsample\.conv\.1\.", r"decoder.levels.\1.up.conv."),
    (r"^layers_up\.(\d)\.upsample\.conv\.2\.", r"decoder.levels.\1.up.reduce."),
    (r"^layers_up\.(\d)\.upsample\.norm\.", r"decoder.levels.\1.up.norm."),
    (r"^layers_up\.1\.blocks\.", r"decoder.levels.0.stage.blocks."),
    (r"^layers_up\.2\.blocks\.", r"decoder.levels.1.stage.blocks."),
    (r"^layers_up\.3\.blocks\.", r"decoder.levels.2.stage.blocks."),
    (r"^concat_back_dim\.1\.", r"decoder.levels.0.fuse."),
    (r"^concat_back_dim\.2\.", r"decoder.levels.1.fuse."),
    (r"^concat_back_dim\.3\.", r"decoder.levels.2.fuse."),
    (r"^norm_up\.", r"decoder.norm_up."),
    (r"^up\.expand\.", r"decoder.expand."),
    (r"^up\.norm\.", r"decoder.norm_out."),
    (r"^output\.", r"head."),
    (r"(stem\.conv\d|\.reduce)\.conv\.", r"\1.0."),
    (r"(stem\.conv\d|\.reduce)\.norm\.", r"\1.1."),
    (r"\.act_proj\.", r".gate_proj."),
    (r"\.dwc\.", r".conv."),
    (r"\.attn\.", r".mixer."),
    (r"\.mlp\.fc1\.", r".mlp.0."),
    (r"\.mlp\.fc2\.", r".mlp.2."),
]
FIRST_PARAMETER = "stem.conv1.0.weight"
"""First parameter of every MLLA encoder; its prefix locates the encoder in a network."""
ENCODER_BLOCK = re.compile(r"^encoder\.stages\.(\d)\.blocks\.(\d+)\.")
DECODER_BLOCKS = re.compile(r"^decoder\.levels\.(\d)\.stage\.(.+)$")
DERIVABLE = re.compile(r"(\.rope\.rotations|\.num_batches_tracked)$")


@dataclass
class LoadReport:
    """Result of :func:`load_pretrained`, by parameter names of the module."""

    loaded: list[str] = field(default_factory=list)
    """Loaded unchanged."""
    adapted: list[str] = field(default_factory=list)
    """Loaded with changes: a first convolution for other channels, decoder blocks copied from the encoder."""
    left_out: list[str] = field(default_factory=list)
    """In the file but not used, such as a head for another number of classes; by our names."""
    missing: list[str] = field(default_factory=list)
    """In the module but not in the file; left unchanged."""
    file_key: str = ""
    """Key of the weights in the file, such as ``state_dict_ema`` for averaged ones; empty if none."""

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} parameters loaded" + (f" from {self.file_key!r}" if self.file_key else "")]
        for what in ("adapted", "left_out", "missing"):
            if names := getattr(self, what):
                lines.append(f"{what.replace('_', ' ')}: {_first(names)}")
        return "; ".join(lines)


def _first(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") + f" ({len(names)} in all)"


def rename(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' parameters to ours (of a classifier or segmenter); our own names are unchanged."""
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    if "norm.weight" in renamed and "head.weight" in renamed and renamed["head.weight"].ndim == 4:
        for kind in ("weight", "bias"):  # MLLA-UNet's last encoder norm is named like the classifier's
            renamed[f"decoder.norm.{kind}"] = renamed.pop(f"norm.{kind}")
    return renamed


def common_names(names: Iterable[str]) -> dict[str, str]:
    """Return a network's parameter names, keyed by those that :class:`MLLA` or ``Segmenter`` would use."""
    names = [name for name in names if not DERIVABLE.search(name)]
    places = _places(names)
    if len(places) != 1:
        return {name: name for name in names}
    place = places[0]
    root = place[: max(0, place.rfind("encoder."))]
    return {
        "encoder." + name.removeprefix(place) if name.startswith(place) else name.removeprefix(root): name
        for name in names
    }


def _places(names: Iterable[str]) -> list[str]:
    """Return the prefixes of the MLLA encoders among parameter names."""
    return [name.removesuffix(FIRST_PARAMETER) for name in names if name.endswith(FIRST_PARAMETER)]


def _require_one_encoder(names: Iterable[str], where: str, advice: str) -> None:
    """Check that parameters are those of one network, not of a student and its teacher, for example.

    Raises:
        InputError: There are several MLLA encoders.
    """
    if len(places := _places(names)) > 1:
        raise InputError(f"{where} has {len(places)} MLLA encoders, {' and '.join(places[:2])}: {advice}.")


def count_blocks(names: Iterable[str]) -> Counter[str]:
    """Count the blocks in each encoder stage."""
    blocks = {match.groups() for name in names if (match := ENCODER_BLOCK.match(name))}
    return Counter(stage for stage, _ in blocks)


def copy_encoder_blocks(targets: Iterable[str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return encoder blocks as initial weights of MLLA-UNet decoder blocks of the same width, as the authors do."""
    copies = {}
    for target in targets:
        if match := DECODER_BLOCKS.match(target):
            source = f"encoder.stages.{2 - int(match[1])}.{match[2]}"
            if source in weights:
                copies[target] = weights[source]
    return copies


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Adapt a first convolution ``(O, I, *kernel)`` to other channels, keeping its response to images equal in all.

    A single channel gets the sum of the weights, as if it were repeated; more channels cycle through the old weights,
    rescaled.
    """
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    old = weight.shape[1]
    repeats = -(-in_channels // old)
    return weight.repeat(1, repeats, *[1] * (weight.ndim - 2))[:, :in_channels] * (old / in_channels)


def _but_channels(weight: Tensor) -> tuple[int, ...]:
    """Return the shape of a convolution weight without its input channels."""
    return (weight.shape[0], *weight.shape[2:])


def _require_same_depths(weights: Iterable[str], targets: Iterable[str], source: str) -> None:
    """Check that stages which weights and network share have the same number of blocks.

    Raises:
        InputError: Names the first stage that differs.
    """
    theirs, ours = count_blocks(weights), count_blocks(targets)
    for stage in sorted(theirs.keys() & ours.keys()):
        if theirs[stage] != ours[stage]:
            raise InputError(
                f"Stage {stage} in {source} has {theirs[stage]} blocks, in this network {ours[stage]}: "
                "the weights are for a network of another size. Create the network in that size."
            )


def _misfit(key: str, value: Tensor, target: Tensor, source: str) -> InputError:
    """Return the error for an encoder weight whose shape is not that of the network's parameter."""
    if value.ndim == 5 and target.ndim == 4:
        return InputError(f"{source} holds the weights of a network of volumes, this one is of images.")
    if value.ndim == 4 and target.ndim == 5:
        return InputError(
            f"{source} holds the weights of a network of images, this one is of volumes: load them into the same "
            "network of images, and its weights into this one with mlla_seg.models.inflation.inflated."
        )
    return InputError(
        f"{key} in {source} has shape {tuple(value.shape)}, this network expects {tuple(target.shape)}: "
        "the weights are for a network of another size or block. Create the same network."
    )


def load_pretrained(module: nn.Module, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Load weights into a network with an MLLA encoder: ours, or one of smp, timm, MONAI or torchgeo.

    The weights may be the authors' or come from any of these networks. When a classifier is loaded into an MLLA-UNet,
    decoder blocks start as copies of the encoder blocks of the same width. A first convolution for another number of
    channels is adapted; a head for other classes, or another decoder, is left out; normalisation stays the module's.

    Our networks with a timm or smp encoder accept files of these libraries and of torchvision, such as ImageNet
    classifiers, and of other networks with the same encoder.

    Args:
        module: The network; changed in place.
        source: Path of a file (see :func:`~mlla_seg.models.weight_files.read_state_dict`), or a state dict.

    Returns:
        Report of the loaded, adapted, left-out and missing parameters.

    Raises:
        InputError: The file cannot be read, or its weights do not fit the module, are of another size, quantised, NaN
            or infinite. Later stages may be missing on either side.
    """
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    state_dict, file_key = (source, "") if isinstance(source, Mapping) else read_state_dict(source)
    state = module.state_dict()
    weights, own_names = _under_common_names(module, state, state_dict, name)
    targets = {common: state[own] for common, own in own_names.items()}
    _require_same_depths(weights, targets, name)
    adapted = _take_decoder(weights, targets)
    fitting: dict[str, Tensor] = {}
    left_out: list[str] = []
    first = _first_convolutions(module, targets)
    for key, value in weights.items():
        target = targets.get(key)
        if target is None or key.startswith("normalise."):
            left_out.append(key)
        elif target.shape == value.shape:
            fitting[key] = value
        elif not key.startswith("encoder."):  # a head for other classes, a decoder of another kind
            left_out.append(key)
        elif key in first and value.ndim == target.ndim and _but_channels(value) == _but_channels(target):
            adapted[key] = adapt_channels(value, target.shape[1])
        else:
            raise _misfit(key, value, target, name)
    if not any(key.startswith("encoder.") for key in fitting):
        raise InputError(
            f"No encoder parameter of {name} fits {type(module).__name__}: it holds {_first(list(weights))}."
        )
    require_weights(name, fitting | adapted)
    values = {own_names[key]: value for key, value in (fitting | adapted).items()}
    module.load_state_dict({**state, **values})
    return LoadReport(
        loaded=[own_names[key] for key in fitting],
        adapted=[own_names[key] for key in adapted],
        left_out=left_out,
        missing=[own for key, own in own_names.items() if own not in values and not key.startswith("normalise.")],
        file_key=file_key,
    )


def _under_common_names(
    module: nn.Module, state: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return weights by the names of :func:`common_names`, and the module's own names by the same.

    With an encoder of another library, common names are the module's own.

    Raises:
        InputError: Weights or module have several MLLA encoders, or no weight belongs to the library's encoder.
    """
    if foreign := find_foreign(module):
        state_dict, places = library_names(*foreign, state_dict, source)
        weights = {places[own]: value for own, value in state_dict.items() if not DERIVABLE.search(own)}
        return weights, {own: own for own in state if not DERIVABLE.search(own)}
    given = rename(state_dict)
    _require_one_encoder(given, source, "keep the weights that you mean")
    _require_one_encoder(state, type(module).__name__, "load the weights into one of its parts")
    return {common: given[own] for common, own in common_names(given).items()}, common_names(state)


def _take_decoder(weights: dict[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a classifier's weights for the blocks of an MLLA-UNet decoder, and move its final norm to them."""
    if any(DECODER_BLOCKS.match(key) for key in weights):
        return {}
    taken = copy_encoder_blocks(targets, weights)
    for kind in ("weight", "bias"):  # the final norm follows the same stage in both
        if taken and f"norm.{kind}" in weights:
            taken[f"decoder.norm.{kind}"] = weights.pop(f"norm.{kind}")
    return taken


def _first_convolutions(module: nn.Module, targets: Mapping[str, Tensor]) -> set[str]:
    """Return the common names of the weights that see the channels of the image."""
    if foreign := find_foreign(module):
        channels = foreign[1].in_channels
        return {key for key, target in targets.items() if target.ndim in (4, 5) and target.shape[1] == channels}
    return {"encoder." + FIRST_PARAMETER}

"""Weights from elsewhere: the one place that knows the parameter names of others.

The authors' files hold the state dict itself or under the key ``model`` (or ``state_dict``); RoPE tables in them can be
derived and are dropped. Whatever library an MLLA encoder sits in, its parameters have the same names behind a prefix:
they are brought to ``encoder.``, and those beside it (``decoder.``, ``norm.``, ``head.``) lose what the two share.
Encoders of other libraries keep these libraries' names, see :func:`mlla_seg.models.foreign.names_in`.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mlla_seg.errors import InputError
from mlla_seg.models.foreign import find_foreign, names_in

# The authors' names to ours, applied in order to every name.
RENAMES = [
    (r"^patch_embed\.conv1\.", r"encoder.stem.conv1."),
    (r"^patch_embed\.conv2\.0\.", r"encoder.stem.conv2."),
    (r"^patch_embed\.conv2\.1\.", r"encoder.stem.conv3."),
    (r"^patch_embed\.conv3\.0\.", r"encoder.stem.conv4."),
    (r"^patch_embed\.conv3\.1\.", r"encoder.stem.conv5."),
    (r"^layers\.(\d)\.blocks\.", r"encoder.stages.\1.blocks."),
    (r"^layers\.0\.downsample\.", r"encoder.downsamples.1."),  # ours stands before its stage, theirs after
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
"""Of every MLLA encoder; what stands before it is where the encoder lies."""
ENCODER_BLOCK = re.compile(r"^encoder\.stages\.(\d)\.blocks\.(\d+)\.")
DECODER_BLOCKS = re.compile(r"^decoder\.levels\.(\d)\.stage\.(.+)$")
DERIVABLE = re.compile(r"(\.rope\.rotations|\.num_batches_tracked)$")
FILE_KEYS = ("state_dict_ema", "model_ema", "model", "state_dict")
"""Where files keep their weights; the first that is there counts: averaged ones before others, as in timm."""


@dataclass
class LoadReport:
    """What :func:`load_pretrained` did, by parameter names of the module."""

    loaded: list[str] = field(default_factory=list)
    """Taken over as they are."""
    adapted: list[str] = field(default_factory=list)
    """Taken over changed: a first convolution for other channels, decoder blocks copied from the encoder."""
    left_out: list[str] = field(default_factory=list)
    """In the file but not used, such as the head for another number of classes; by the names of ours."""
    missing: list[str] = field(default_factory=list)
    """In the module but not in the file: as they were before."""
    file_key: str = ""
    """Under which key the file kept them, such as ``state_dict_ema`` for averaged ones; empty for none."""

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} parameters loaded" + (f" from {self.file_key!r}" if self.file_key else "")]
        for what in ("adapted", "left_out", "missing"):
            if names := getattr(self, what):
                lines.append(f"{what.replace('_', ' ')}: {_first(names)}")
        return "; ".join(lines)


def _first(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "") or "nothing"


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Reads a state dict, without running any code stored in the file.

    Args:
        path: A ``.safetensors`` or torch file (a Lightning or timm checkpoint too), or a folder of ``save_pretrained``.

    Returns:
        The state dict, and the key under which the file kept it, of ``FILE_KEYS``; empty for none.

    Raises:
        InputError: No such file, not a file of weights, or one that only loads by running code.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise InputError(
            f"No weights at {path}. Download the file first and give its path; nothing is fetched from here."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), ""
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options in timm's checkpoints; plain data
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whose words may be a number, or advise to run the code
        stored = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"only running code could read the {stored[1]} in it" if stored else "it is damaged or of another kind"
        raise InputError(
            f"{path} cannot be read as weights: {reason}. Expected .safetensors, or a torch file of plain tensors."
        ) from error
    taken = ""
    while isinstance(content, dict) and (key := next((k for k in FILE_KEYS if isinstance(content.get(k), dict)), "")):
        taken, content = taken or key, content[key]
    if not content or not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path} holds no state dict. Expected parameter names and tensors, plain or under 'model'.")
    return content, taken


def rename(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Brings the authors' parameter names to ours (those of a classifier or segmenter); ours stay as they are."""
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    if "norm.weight" in renamed and "head.weight" in renamed and renamed["head.weight"].ndim == 4:
        for kind in ("weight", "bias"):  # MLLA-UNet's last norm of the encoder has the classifier's name
            renamed[f"decoder.norm.{kind}"] = renamed.pop(f"norm.{kind}")
    return renamed


def common_names(names: Iterable[str]) -> dict[str, str]:
    """Parameter names of anything that holds an MLLA encoder, keyed by those of :class:`MLLA` and ``Segmenter``."""
    names = [name for name in names if not DERIVABLE.search(name)]
    places = [name.removesuffix(FIRST_PARAMETER) for name in names if name.endswith(FIRST_PARAMETER)]
    if len(places) != 1:
        return {name: name for name in names}
    place = places[0]
    root = place[: max(0, place.rfind("encoder."))]
    return {
        "encoder." + name.removeprefix(place) if name.startswith(place) else name.removeprefix(root): name
        for name in names
    }


def count_blocks(names: Iterable[str]) -> Counter[str]:
    """Blocks in each stage of the encoder."""
    blocks = {match.groups() for name in names if (match := ENCODER_BLOCK.match(name))}
    return Counter(stage for stage, _ in blocks)


def copy_encoder_blocks(targets: Iterable[str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks of MLLA-UNet's decoder as copies of the encoder's of the same width, as the authors start it."""
    copies = {}
    for target in targets:
        if match := DECODER_BLOCKS.match(target):
            source = f"encoder.stages.{2 - int(match[1])}.{match[2]}"
            if source in weights:
                copies[target] = weights[source]
    return copies


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution ``(O, I, k, k)`` for other channels, with the same response to an image equal in all.

    One channel takes the sum, exactly as if it were repeated; more take the old ones in turn, scaled.
    """
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    old = weight.shape[1]
    repeats = -(-in_channels // old)
    return weight.repeat(1, repeats, 1, 1)[:, :in_channels] * (old / in_channels)


def _but_channels(weight: Tensor) -> tuple[int, ...]:
    """The shape of a convolution's weight but for the channels of its input."""
    return (weight.shape[0], *weight.shape[2:])


def load_pretrained(module: nn.Module, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Loads weights into whatever holds an MLLA encoder: ours, or a network of smp, timm, MONAI or torchgeo with it.

    Networks of ours with an encoder of timm or smp take the files of these libraries and of torchvision, such as
    ImageNet classifiers, and what holds the same encoder.

    The weights may be the authors', or come from any of these in turn. From a classifier into an MLLA-UNet, decoder
    blocks start as copies of the encoder's blocks of the same width. A first convolution for another number of channels
    is adapted; a head for other classes, or another kind of decoder, is left out; normalisation stays the module's own.

    Args:
        module: The network; changed in place.
        source: Path of a file (see :func:`read_state_dict`), or a state dict.

    Returns:
        What was loaded, adapted, left out and is missing.

    Raises:
        InputError: The file cannot be read, or fits the module nowhere or with another size. Later stages may be
            missing on either side.
    """
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    state_dict, file_key = (source, "") if isinstance(source, Mapping) else read_state_dict(source)
    state = module.state_dict()
    foreign = find_foreign(module)
    if foreign:
        places = names_in(*foreign, state_dict, name)
        weights = {places[own]: value for own, value in state_dict.items() if not DERIVABLE.search(own)}
        own_names = {own: own for own in state if not DERIVABLE.search(own)}
    else:
        given = rename(state_dict)
        weights = {common: given[own] for common, own in common_names(given).items()}
        own_names = common_names(state)
    targets = {common: state[own] for common, own in own_names.items()}
    report = LoadReport(file_key=file_key)
    theirs, ours = count_blocks(weights), count_blocks(targets)
    for stage in sorted(theirs.keys() & ours.keys()):
        if theirs[stage] != ours[stage]:
            raise InputError(
                f"Stage {stage} in {name} has {theirs[stage]} blocks, in this network {ours[stage]}: "
                "the weights are of another size. Create the network of that size."
            )
    fitting: dict[str, Tensor] = {}
    adapted: dict[str, Tensor] = {}
    if not any(DECODER_BLOCKS.match(key) for key in weights) and (copies := copy_encoder_blocks(targets, weights)):
        adapted = copies
        for kind in ("weight", "bias"):  # the classifier's final norm follows the same stage
            if f"norm.{kind}" in weights:
                adapted[f"decoder.norm.{kind}"] = weights.pop(f"norm.{kind}")
    for key, value in weights.items():
        target = targets.get(key)
        if target is None or key.startswith("normalise."):
            report.left_out.append(key)
        elif target.shape == value.shape:
            fitting[key] = value
        elif not key.startswith("encoder."):  # a head for other classes, a decoder of another kind
            report.left_out.append(key)
        elif (
            value.ndim == 4
            and _but_channels(value) == _but_channels(target)
            and (target.shape[1] == foreign[1].in_channels if foreign else key == "encoder." + FIRST_PARAMETER)
        ):
            adapted[key] = adapt_channels(value, target.shape[1])
        else:
            raise InputError(
                f"{key} in {name} has shape {tuple(value.shape)}, this network expects {tuple(target.shape)}: "
                "the weights are of another size. Create the network of that size."
            )
    if not any(key.startswith("encoder.") for key in fitting):
        raise InputError(
            f"No encoder parameter of {name} fits {type(module).__name__}: it holds {_first(list(weights))}."
        )
    values = {own_names[key]: value for key, value in (fitting | adapted).items()}
    module.load_state_dict({**state, **values})
    report.loaded = [own_names[key] for key in fitting]
    report.adapted = [own_names[key] for key in adapted]
    report.missing = [own for key, own in own_names.items() if own not in values and not key.startswith("normalise.")]
    return report

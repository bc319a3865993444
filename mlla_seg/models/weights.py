"""Weights from elsewhere: the one place that knows the parameter names of the authors' networks.

Their files hold the state dict itself or under the key ``model`` (or ``state_dict``); RoPE tables in them can be
derived and are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mlla_seg.errors import InputError
from mlla_seg.models.decoders import MLLAUNetDecoder
from mlla_seg.models.mlla import MLLA, MLLAEncoder
from mlla_seg.models.segmenter import Segmenter

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
DERIVABLE = re.compile(r"(\.rope\.rotations|\.num_batches_tracked)$")


@dataclass
class LoadReport:
    """What :func:`load_pretrained` did, by parameter names of the module."""

    loaded: list[str] = field(default_factory=list)
    """Taken over as they are."""
    adapted: list[str] = field(default_factory=list)
    """Taken over changed: a first convolution for other channels, decoder blocks copied from the encoder."""
    left_out: list[str] = field(default_factory=list)
    """In the file but not used, such as the head for another number of classes."""
    missing: list[str] = field(default_factory=list)
    """In the module but not in the file: as they were before."""

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} parameters loaded"]
        for what in ("adapted", "left_out", "missing"):
            if names := getattr(self, what):
                shown = ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")
                lines.append(f"{what.replace('_', ' ')}: {shown}")
        return "; ".join(lines)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads a state dict from ``.safetensors`` or a torch file, without running any code stored in it.

    Raises:
        InputError: No such file, not a file of weights, or one that only loads by running code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"No weights at {path}. Download the file first and give its path; nothing is fetched from here."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} cannot be read as weights ({reason}). Expected .safetensors, or a torch file of plain tensors."
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds no state dict. Expected parameter names and tensors, plain or under 'model'.")
    return content


def rename(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Brings the authors' parameter names to ours (those of a classifier or segmenter); ours stay as they are."""
    renamed = {}
    for name, value in state_dict.items():
        if DERIVABLE.search(name):
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def copy_encoder_blocks(decoder: MLLAUNetDecoder, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Decoder blocks as copies of the encoder's blocks of the same width, as the authors start MLLA-UNet."""
    copies = {}
    for level, stage in enumerate((2, 1, 0)):
        for name in decoder.get_submodule(f"levels.{level}.stage").state_dict():
            source = weights.get(f"encoder.stages.{stage}.{name}")
            if source is not None:
                copies[f"decoder.levels.{level}.stage.{name}"] = source
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


def load_pretrained(module: nn.Module, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Loads released weights (the authors' names or ours) into a classifier, encoder or segmenter.

    From a classifier into an MLLA-UNet, decoder blocks start as copies of the encoder's blocks of the same width. A
    first convolution for another number of channels is adapted; a head for other classes is left out.

    Args:
        module: :class:`MLLA`, :class:`MLLAEncoder` or a :class:`Segmenter`; changed in place.
        source: Path of a file, or a state dict.

    Returns:
        What was loaded, adapted, left out and is missing.

    Raises:
        InputError: The file cannot be read, or fits the module nowhere or with another size.
    """
    if not isinstance(module, (MLLA, MLLAEncoder, Segmenter)):
        raise InputError(f"load_pretrained takes an MLLA, MLLAEncoder or Segmenter, got {type(module).__name__}.")
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    weights = rename(source if isinstance(source, Mapping) else read_state_dict(source))
    if "norm.weight" in weights and "head.weight" in weights and weights["head.weight"].ndim == 4:
        for kind in ("weight", "bias"):  # MLLA-UNet's last norm of the encoder has the classifier's name
            weights[f"decoder.norm.{kind}"] = weights.pop(f"norm.{kind}")
    if isinstance(module, MLLAEncoder):
        weights = {key.removeprefix("encoder."): value for key, value in weights.items()}
    report = LoadReport()
    targets = {key: value for key, value in module.state_dict().items() if not DERIVABLE.search(key)}
    adapted: dict[str, Tensor] = {}
    has_decoder = any(key.startswith("decoder.") for key in weights)
    if isinstance(module, Segmenter) and isinstance(module.decoder, MLLAUNetDecoder) and not has_decoder:
        adapted = copy_encoder_blocks(module.decoder, weights)
        for kind in ("weight", "bias"):  # the classifier's final norm follows the same stage
            if f"norm.{kind}" in weights:
                adapted[f"decoder.norm.{kind}"] = weights.pop(f"norm.{kind}")
    for key, value in weights.items():
        target = targets.get(key)
        if target is None or (key.startswith("head.") and target.shape != value.shape):
            report.left_out.append(key)
        elif target.shape == value.shape:
            report.loaded.append(key)
        elif key.endswith("stem.conv1.0.weight") and target.shape[0] == value.shape[0]:
            adapted[key] = adapt_channels(value, target.shape[1])
        else:
            raise InputError(
                f"{key} in {name} has shape {tuple(value.shape)}, this network expects {tuple(target.shape)}: "
                "the weights are of another size. Create the network of that size."
            )
    report.adapted = list(adapted)
    if not report.loaded:
        raise InputError(
            f"No parameter of {name} fits {type(module).__name__}: it holds {', '.join(list(weights)[:3])}, ..."
        )
    module.load_state_dict({key: weights[key] for key in report.loaded} | adapted, strict=False)
    report.missing = [
        key for key in targets if key not in weights and key not in adapted and not key.startswith("normalise.")
    ]
    return report

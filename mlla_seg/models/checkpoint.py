"""Checkpoints of ``fit`` and folders of ``save_pretrained``, read without running anything that is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlla_seg._version import __version__
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.errors import InputError
from mlla_seg.finite import LOWER_RATE, require_finite_weights
from mlla_seg.models import create_model
from mlla_seg.models.ensemble import Ensemble, Flips
from mlla_seg.models.segmenter import Segmenter

CHECKPOINT_KEY = "mlla_seg_version"
"""Where a checkpoint says that this program wrote it."""
BEFORE_0_2 = {"norm_outputs": False, "deep_supervision": False}
"""Hyper-parameters that version 0.1 did not know: what it did."""
SHARED_BY_MEMBERS = ("channels", "plane", "context", "resize", "patch_size", "spacing_mm", "array_units")
"""What the networks of an ensemble must have in common, besides their classes."""
USE_ANOTHER = f"Use an earlier checkpoint, or train again. {LOWER_RATE}"
"""What to do about weights that are no numbers."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a ``.ckpt`` that ``fit`` wrote; arrays stay in the file until they are used.

    Raises:
        InputError: No such file, unreadable, or written by another program.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such checkpoint. Give the path of a .ckpt; fit writes them to "
            "runs/<name>/version_<n>/checkpoints."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a checkpoint. Is it a .ckpt of fit, and complete?") from error
    if not isinstance(content, dict) or CHECKPOINT_KEY not in content:
        raise InputError(f"{path}: is not a checkpoint of mlla_seg. For other weights see mlla_seg.load_pretrained.")
    content["hyper_parameters"] = {**BEFORE_0_2, **content["hyper_parameters"]}
    return content


def build_network(hparams: Mapping[str, Any]) -> Segmenter:
    """The network that hyper-parameters (of ``SegmentationModule``, or from its checkpoint) describe."""
    spec = DataSpec.of(hparams["spec"])
    network = create_model(
        hparams["encoder"],
        hparams["decoder"],
        num_classes=len(spec.classes),
        in_channels=spec.in_channels,
        normalisation=spec.normalisation.for_network(spec.context),
        drop_path_rate=hparams["drop_path_rate"],
        decoder_depths=hparams["decoder_depths"],
        mixer=hparams["mixer"],
        frame=spec.patch_size,
        norm_outputs=hparams["norm_outputs"],
    )
    network.spec = spec
    return network


def load_segmenter(path: str | Path) -> Segmenter:
    """The trained network of a ``.ckpt`` or of a folder, ready to predict, with the ``spec`` of its data.

    Raises:
        InputError: See :func:`read_checkpoint`; or the weights are not those of the network it describes.
    """
    if Path(path).is_dir():
        segmenter = Segmenter.from_pretrained(path)
        require_finite_weights(path, segmenter.state_dict(), USE_ANOTHER)
        return segmenter.eval()
    content = read_checkpoint(path)
    network = build_network(content["hyper_parameters"])
    network.load_state_dict(fitting_weights(path, content, network))
    return network.eval()


def load_members(paths: Sequence[str | Path]) -> list[Segmenter]:
    """The networks of an ensemble.

    Raises:
        InputError: One cannot be loaded, or they were not trained to do the same.
    """
    members = [load_segmenter(path) for path in paths]
    first = shared_by_members(members[0].spec)
    for path, member in zip(paths[1:], members[1:], strict=True):
        for key, found in shared_by_members(member.spec).items():
            if (was := first[key]) != found:
                raise InputError(
                    f"{path}: was trained with {key} {found}, {paths[0]} with {was}. "
                    "The checkpoints of an ensemble need the same data options."
                )
    return members


def shared_by_members(spec: DataSpec | None) -> dict[str, Any]:
    """What the networks of an ensemble must have in common, in plain types; none of a network without a spec."""
    if spec is None:
        return dict.fromkeys(("classes", "per_case", *SHARED_BY_MEMBERS))
    content = spec.to_dict()
    own = {"classes": spec.class_names, "per_case": spec.view.per_case}  # all other normalisation is in the networks
    return own | {key: content[key] for key in SHARED_BY_MEMBERS}


def is_averaged(path: str | Path) -> bool:
    """Whether the weights of a checkpoint are a moving average; the ones of the last step then lie beside them."""
    return Path(path).is_file() and "current_model_state" in read_checkpoint(path)


def load_network(paths: Sequence[str | Path], tta: bool = False) -> tuple[nn.Module, DataSpec]:
    """The network of one checkpoint or of several, an ensemble, and the spec of its data.

    Args:
        paths: Checkpoints or folders of ``save_pretrained``.
        tta: Mean over the four mirror images of each slice.

    Raises:
        InputError: One cannot be loaded, they were not trained to do the same, or not on mirror images.
    """
    networks = load_members(paths)
    if tta:
        for path, member in zip(paths, networks, strict=True):
            require_mirrored(path, member.spec)
    network: nn.Module = Ensemble(networks) if len(networks) > 1 else networks[0]
    if networks[0].spec is None:
        raise InputError(f"{paths[0]}: does not say what the network's classes and channels are; train it here first.")
    return Flips(network) if tta else network, networks[0].spec


def require_mirrored(path: str | Path, spec: DataSpec | None) -> None:
    """Refuses to average over mirror images where the network never learned from any.

    Raises:
        InputError: Says which augmentations would have shown them.
    """
    if spec is None or not spec.mirrored:
        raise InputError(
            f"{path}: learned from no mirror images, so --tta would make it worse. "
            "Train with --data.augment transunet or aerial, or --data.mirror, to use it."
        )


def fitting_weights(path: str | Path, content: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
    """The weights of a checkpoint for a network.

    Raises:
        InputError: Names or shapes are not the network's: says how many, one of them, and which version wrote the file;
            or weights are NaN or infinite.
    """
    prefix = "network."
    weights = {key[len(prefix) :]: value for key, value in content["state_dict"].items() if key.startswith(prefix)}
    ours = network.state_dict()
    differing = sorted(
        name
        for name in ours.keys() | weights.keys()
        if name not in ours or name not in weights or ours[name].shape != weights[name].shape
    )
    if differing:
        raise InputError(
            f"{path}: {len(differing)} of its weights are not those of this network, such as {differing[0]}. "
            f"It was written by mlla_seg {content[CHECKPOINT_KEY]}, this is {__version__}: use that version, or train "
            "again."
        )
    require_finite_weights(path, weights, USE_ANOTHER)
    return weights

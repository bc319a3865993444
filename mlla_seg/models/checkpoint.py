"""Loading of ``fit`` checkpoints and ``save_pretrained`` folders, without executing code stored in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlla_seg._version import __version__
from mlla_seg.checksums import require_intact_archive
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.halving import known_spacing, strides_for
from mlla_seg.data.slices import AXES
from mlla_seg.errors import InputError, followed_by
from mlla_seg.finite import LOWER_RATE, require_finite_weights
from mlla_seg.models import create_model
from mlla_seg.models.arguments import building, require_arguments
from mlla_seg.models.ensemble import combined
from mlla_seg.models.hub import BEFORE_0_2
from mlla_seg.models.nearby import did_you_mean
from mlla_seg.models.segmenter import Segmenter

NETWORK = (
    *("encoder", "decoder", "drop_path_rate", "decoder_depths", "mixer", "norm_outputs", "block"),
    *("dims", "strides"),
)
"""Hyper-parameters that rebuild the network, besides the spec."""
ANOTHER = "The file is damaged or was changed: copy it again, or use another checkpoint."
CHECKPOINT_KEY = "mlla_seg_version"
"""Checkpoint key that marks files written by this program."""
PRETRAINING_KEY = "pretraining"
"""Checkpoint key of ``pretrain``: a dict with ``kind``, and ``mean`` and ``std`` of images in raw units."""
SHARED_BY_MEMBERS = ("channels", "plane", "context", "resize", "patch_size", "spacing_mm", "array_units", "regions")
"""Data options that the members of an ensemble must share, besides their classes."""
USE_ANOTHER = f"Use an earlier checkpoint, or train again. {LOWER_RATE}"
"""Advice for weights that are NaN or infinite."""


def read_content(path: str | Path) -> dict[str, Any]:
    """Read a ``.ckpt`` written by ``fit`` or ``pretrain``; tensors are memory-mapped.

    Raises:
        InputError: No such file, unreadable, or written by another program.
    """
    path = Path(path)
    if not path.is_file():
        advice = did_you_mean(path) or (
            "Give the path of a .ckpt; fit writes them to runs/<name>/version_<n>/checkpoints."
        )
        raise InputError(f"{path}: no such checkpoint. {advice}")
    try:
        require_intact_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a checkpoint. Is it a complete .ckpt of fit?") from error
    if not isinstance(content, dict) or CHECKPOINT_KEY not in content:
        raise InputError(f"{path}: is not a checkpoint of mlla_seg. Load other weights with mlla_seg.load_pretrained.")
    return content


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a ``.ckpt`` written by ``fit``; tensors are memory-mapped.

    Raises:
        InputError: No such file, unreadable, or written by another program or by ``pretrain``.
    """
    content = read_content(path)
    if PRETRAINING_KEY in content:
        raise InputError(
            f"{path}: is a checkpoint of pretrain, which segments nothing. Train a segmenter from it: fit ... "
            f"--model.pretrained {path}"
        )
    saved, weights = content.get("hyper_parameters"), content.get("state_dict")
    if not isinstance(saved, dict) or not isinstance(weights, dict) or not isinstance(saved.get("spec"), Mapping):
        raise InputError(f"{path}: lacks its weights, options or spec. {ANOTHER}")
    content["hyper_parameters"] = {**BEFORE_0_2, **saved}
    with followed_by(ANOTHER):
        if missing := [key for key in NETWORK if key not in content["hyper_parameters"]]:
            raise InputError(f"{path}: its options lack {', '.join(missing)}.")
        DataSpec.from_dict(saved["spec"], str(path))
        require_arguments("create_model", {key: content["hyper_parameters"][key] for key in NETWORK}, str(path))
    return content


def network_axes(spec: DataSpec, strides: Sequence[Sequence[int]] | None) -> dict[str, Any]:
    """Return the number of axes of a network and its strides, by default those for the spacing and size of patches."""
    if spec.axes == 3 and strides is None:
        assert spec.patch_size is not None
        strides = strides_for(known_spacing(spec.spacing_mm, spec.patch_size), spec.patch_size)
    return {"dims": spec.axes, "strides": strides}


def build_network(hparams: Mapping[str, Any]) -> Segmenter:
    """Build the network described by the hyper-parameters of ``SegmentationModule`` or its checkpoint.

    Raises:
        InputError: See ``create_model``.
    """
    spec = DataSpec.of(hparams["spec"])
    hparams = {**BEFORE_0_2, **hparams}
    network = create_model(
        num_classes=len(spec.output_names),
        in_channels=spec.in_channels,
        normalisation=spec.normalisation.for_network(spec.context),
        frame=spec.patch_size,
        **{key: hparams[key] for key in NETWORK},
    )
    network.spec = spec
    return network


def load_segmenter(path: str | Path) -> Segmenter:
    """Load the trained network of a ``.ckpt`` or a folder in evaluation mode, with the ``spec`` of its data.

    Raises:
        InputError: See :func:`read_checkpoint`; or the weights do not fit the network described.
    """
    if Path(path).is_dir():
        segmenter = Segmenter.from_pretrained(path)
        require_finite_weights(path, segmenter.state_dict(), USE_ANOTHER)
        return segmenter.eval()
    content = read_checkpoint(path)
    with followed_by(ANOTHER), building(str(path)):
        network = build_network(content["hyper_parameters"])
    network.load_state_dict(fitting_weights(path, content, network))
    return network.eval()


def load_members(paths: Sequence[str | Path]) -> list[Segmenter]:
    """Load the members of an ensemble.

    Raises:
        InputError: A member cannot be loaded, or members were trained for different tasks.
    """
    members = [load_segmenter(path) for path in paths]
    first = shared_by_members(members[0].spec)
    for path, member in zip(paths[1:], members[1:], strict=True):
        for key, found in shared_by_members(member.spec).items():
            if (was := first[key]) != found:
                raise InputError(
                    f"{path}: was trained with {key} {found}, {paths[0]} with {was}. "
                    "Checkpoints of an ensemble must share their data options."
                )
        own = (members[0].spec and members[0].spec.postprocessing) or ()
        if member.spec is not None and member.spec.postprocessing not in ((), own):
            raise InputError(
                f"{path}: has a post-processing that {paths[0]} does not have. An ensemble uses that of its first "
                f"checkpoint: name {path} first, or leave the post-processing out of it."
            )
    return members


def shared_by_members(spec: DataSpec | None) -> dict[str, Any]:
    """Return what ensemble members must share, in plain types; all ``None`` for a network without a spec."""
    if spec is None:
        return dict.fromkeys(("classes", "per_case", *SHARED_BY_MEMBERS))
    content = spec.to_dict()
    own = {"classes": spec.class_names, "per_case": spec.view.per_case}  # other normalisation is part of the network
    return own | {key: content[key] for key in SHARED_BY_MEMBERS}


def is_averaged(path: str | Path) -> bool:
    """Return whether a checkpoint's weights are a moving average, stored along with those of the last step."""
    return Path(path).is_file() and "current_model_state" in read_checkpoint(path)


def load_network(paths: Sequence[str | Path], tta: bool = False) -> tuple[nn.Module, DataSpec]:
    """Load one checkpoint, or several as an ensemble, and the spec of the data.

    Args:
        paths: Checkpoints, or folders of ``save_pretrained``.
        tta: Test-time augmentation: averages over the flips of the training.

    Raises:
        InputError: A checkpoint cannot be loaded, or members were trained for different tasks; or ``tta`` without
            flips in training, or with others for each member.
    """
    networks = load_members(paths)
    flips = flips_of(paths, [member.spec for member in networks]) if tta else ()
    spec = networks[0].spec
    if spec is None:
        raise InputError(f"{paths[0]}: has no spec of its classes and channels. Train it with mlla_seg first.")
    return combined(networks[0], networks[1:], spec.writes, flips), spec


def flips_of(paths: Sequence[str | Path], specs: Sequence[DataSpec | None]) -> tuple[str, ...]:
    """Return the axes along which networks were trained with flips, over which test-time augmentation averages.

    Args:
        paths: Where the networks are from, for messages.
        specs: What they remember of their data.

    Raises:
        InputError: One was trained without flips, which would degrade its results; the message names the augmentations
            that include flips. Or two were trained with flips along other axes.
    """
    found: list[tuple[str, ...]] = []
    for path, spec in zip(paths, specs, strict=True):
        if spec is None or not spec.mirrored:
            volumes = spec is not None and spec.axes == 3
            how = "" if volumes else "--data.augment transunet or aerial, or with "
            axes = ",".join(AXES if volumes else AXES[1:])
            raise InputError(
                f"{path}: was trained without flips, so --tta would degrade its results. To use it, train with "
                f"{how}--data.mirror [{axes}] or some of these."
            )
        found.append(spec.mirrored)
        if found[0] != spec.mirrored:
            raise InputError(
                f"{path}: was trained with flips along {', '.join(spec.mirrored)}, {paths[0]} along "
                f"{', '.join(found[0])}. --tta needs the same axes for all checkpoints of an ensemble: leave it out."
            )
    return found[0]


def fitting_weights(path: str | Path, content: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
    """Return the network weights of a checkpoint after checking that they fit the network.

    Raises:
        InputError: Names or shapes differ from the network's, or weights are NaN or infinite.
    """
    prefix = "network."
    weights = {
        key[len(prefix) :]: value
        for key, value in content["state_dict"].items()
        if isinstance(key, str) and key.startswith(prefix) and isinstance(value, Tensor)
    }
    ours = network.state_dict()
    differing = sorted(
        name
        for name in ours.keys() | weights.keys()
        if name not in ours or name not in weights or ours[name].shape != weights[name].shape
    )
    if differing:
        name = differing[0]
        found, expected = (
            " x ".join(map(str, part[name].shape)) if name in part else "absent" for part in (weights, ours)
        )
        raise InputError(
            f"{path}: {len(differing)} of its weights do not fit this network, such as {name}, which is {found} and "
            f"should be {expected}. It was written by mlla_seg {content[CHECKPOINT_KEY]}, this is {__version__}: use "
            "that version, or train again."
        )
    require_finite_weights(path, weights, USE_ANOTHER)
    return weights

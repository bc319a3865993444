"""Weights by the names of other libraries: what ``load_state_dict`` of every plug-in accepts.

An encoder may be given the authors' names, or those of any network with an MLLA encoder: of smp, timm, MONAI,
terratorch, torchgeo or mlla_seg. Names are translated before torch compares them, so that ``strict`` keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mlla_seg.models.weights import FIRST_PARAMETER, common_names, rename
from mlla_seg.progress import note

ENCODER = "encoder."
NORMS = "encoder.norms."
MEAN, COUNT = "running_mean", "num_batches_tracked"


def accept_other_names(module: nn.Module) -> None:
    """Let ``module.load_state_dict`` translate names, also where the module is part of a larger network."""
    module.register_load_state_dict_pre_hook(_translate)


def _translate(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Rename weights in place. The hook does not learn whether loading is strict: torch decides afterwards."""
    given = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    state = module.state_dict()
    kind = type(module).__name__
    weights, left_out = translated(given, state)
    first = next(name for name in state if name.endswith(FIRST_PARAMETER))
    if first in given and not left_out:  # its own names
        return
    if first not in weights:
        found = f"{len(given)} are given, such as {next(iter(given))}" if given else "none is given for it"
        note(
            f"note: no weight fits {kind}: {found}. "
            "mlla_seg.load_pretrained(model, file) finds an MLLA encoder within any network."
        )
        return
    if left_out:
        note(f"note: {kind} has no part for {len(left_out)} of {len(given)} weights, such as {left_out[0]}: left out.")
    if fresh := [name for name, value in weights.items() if value is state.get(name)]:
        note(f"note: {len(fresh)} norms of feature maps, such as {fresh[0]}, are not in these weights and stay.")
    for name in given:
        del state_dict[prefix + name]
    state_dict.update({prefix + name: value for name, value in weights.items()})


def translated(given: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return weights by the names of a module, and the names of those that it has no part for.

    Left out are what stands beside an encoder, such as a head, and whole stages and norms of feature maps that the
    module lacks; norms that the weights lack keep the module's values. Any other weight that fits nowhere is returned
    by its common name: it belongs to a network of another size, which torch reports.

    Args:
        given: Weights by any names.
        state: The module's own state dict.
    """
    renamed = rename(given)
    theirs, ours = common_names(renamed), common_names(state)
    parts = {_part(name) for name in ours}
    weights, left_out = {}, []
    for common, name in theirs.items():
        if common in ours and renamed[name].ndim == state[ours[common]].ndim:  # not the head of another task
            weights[ours[common]] = renamed[name]
            count = name.replace(MEAN, COUNT)
            if name.endswith(MEAN) and count in renamed:
                weights[ours[common].replace(MEAN, COUNT)] = renamed[count]
        elif common not in ours and _part(common) in parts:
            weights[common] = renamed[name]
        else:
            left_out.append(name)
    norms = {own: state[own] for common, own in ours.items() if common.startswith(NORMS) and common not in theirs}
    return {**norms, **weights}, left_out


def _part(common: str) -> str:
    """Return the part of a network to which a weight belongs: a stage or a module beside the encoder."""
    depth = 3 if common.startswith(ENCODER) else 1
    return ".".join(common.split(".")[:depth])

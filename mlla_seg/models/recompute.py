"""Gradient checkpointing: recompute parts of a network in the backward pass instead of storing activations.

Source: arXiv 1604.06174. Network classes are unaffected: :func:`set_checkpointing` overrides methods of instances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mlla_seg.errors import InputError
from mlla_seg.models.blocks import Stage
from mlla_seg.models.decoders import Level, SmpDecoder
from mlla_seg.models.foreign import ForeignEncoder
from mlla_seg.models.mixers import rope_for
from mlla_seg.models.mlla import Downsample, Stem
from mlla_seg.models.segmenter import Segmenter
from mlla_seg.models.whole import WholeNetwork

CHECKPOINTING = ("none", "blocks", "all")
"""What is recomputed: nothing; MLLA blocks; or blocks, stem, resolution changes and decoder."""

PARTS: dict[type[nn.Module], str] = {
    Stage: "forward",
    Stem: "forward",
    Downsample: "forward",
    Level: "join",
    SmpDecoder: "decode",
    ForeignEncoder: "forward",
    WholeNetwork: "forward",
    Segmenter: "classify",
}
"""Recomputed methods by module class; stages are recomputed block by block."""


def set_checkpointing(network: nn.Module, what: str = "all") -> None:
    """Trade time for memory in training; results, gradients and batch-norm statistics are unchanged.

    Args:
        network: A segmenter or a part of one.
        what: ``none``, ``blocks`` or ``all``; see ``CHECKPOINTING``.

    Raises:
        InputError: Unknown name, or a network without such parts.
    """
    if what not in CHECKPOINTING:
        raise InputError(f"checkpoint_stages must be one of {', '.join(CHECKPOINTING)}, got {what!r}.")
    parts = [(module, kind) for module in network.modules() for kind in PARTS if isinstance(module, kind)]
    chosen = [part for part in parts if what == "all" or (what == "blocks" and part[1] is Stage)]
    if what != "none" and not chosen:
        raise InputError(f"checkpoint_stages {what}: this network has no MLLA blocks; use all or none.")
    for module, kind in parts:
        vars(module).pop(PARTS[kind], None)
    for module, kind in chosen:
        method: Callable[..., Any] = _by_blocks if kind is Stage else partial(_recomputed, getattr(kind, PARTS[kind]))
        setattr(module, PARTS[kind], partial(method, module))


def _by_blocks(stage: Stage, x: Tensor) -> Tensor:
    """Run a stage block by block, each with its own RoPE table, so that none is stored for the backward pass."""
    x = _recomputed(_placed, stage, x) if stage.ape else x
    for block in stage.blocks:
        x = _recomputed(_with_rope, block, x)
    return x


def _placed(stage: Stage, x: Tensor) -> Tensor:
    return stage.place(x, rope_for(x))


def _with_rope(block: nn.Module, x: Tensor) -> Tensor:
    return block(x, rope_for(x))


def _recomputed(method: Callable[..., Any], module: Any, *inputs: Any) -> Any:
    """Call ``method(module, *inputs)`` and store only the inputs; batch norms count each image once."""
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm)]
    if not norms:
        return checkpoint(method, module, *inputs, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _without_counting(norms)

    return checkpoint(method, module, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _without_counting(norms: list[_BatchNorm]) -> Iterator[None]:
    """Freeze batch-norm statistics while the same batch is processed again."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # not track_running_stats=False, which would save other tensors than the first pass
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count

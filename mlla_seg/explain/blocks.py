"""What passes through the blocks of a network: inputs of the mixers, token norms and forget gates, by depth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlla_seg.models.blocks import Stage
from mlla_seg.models.segmenter import Segmenter


@dataclass(frozen=True)
class Seen:
    """Tensors at one block of a network.

    Args:
        name: Place of the block, such as ``encoder 1/4, block 2``.
        mixer: Its token mixer.
        inputs: Input of the mixer, ``(1, H, W, C)``.
        rope: RoPE table of the mixer.
        outputs: Output of the mixer, ``(1, H, W, C)``.
    """

    name: str
    mixer: nn.Module
    inputs: Tensor
    rope: Tensor
    outputs: Tensor

    @property
    def norm_spread(self) -> float:
        """Standard deviation over tokens of the L2 norm of the mixer's output, relative to its mean."""
        norms = self.outputs.float().norm(dim=-1)
        return float(norms.std(correction=0) / norms.mean().clamp(min=1e-12))

    @property
    def forget_gate(self) -> float | None:
        """Mean forget gate, None for mixers without."""
        gates = getattr(self.mixer, "forget_gates", None)
        if gates is None or not getattr(self.mixer, "scans", False):
            return None
        with torch.no_grad():
            return float(gates(self.inputs).mean())


def blocks_of(network: Segmenter) -> dict[str, nn.Module]:
    """Return the blocks of a segmenter in the order of computation, by their place."""
    found = {}
    parts = [("encoder", network.encoder), ("decoder", network.decoder)]
    for part, module in parts:
        stages = [child for child in module.modules() if isinstance(child, Stage)]
        for level, stage in enumerate(stages):
            stride = 4 * 2 ** (level if part == "encoder" else len(stages) - 1 - level)
            for number, block in enumerate(stage.blocks, 1):
                found[f"{part} 1/{stride}, block {number}"] = block
    return found


def observe(network: Segmenter, image: Tensor) -> list[Seen]:
    """Segment a normalised image ``(1, C, H, W)`` and return what passed each block; empty without MLLA blocks."""
    seen: list[Seen] = []
    with torch.no_grad(), _hooks(network, seen):
        network.segment(image)
    return seen


@contextmanager
def _hooks(network: Segmenter, seen: list[Seen]) -> Iterator[None]:
    def record(name: str) -> Any:
        return lambda mixer, given, output: seen.append(Seen(name, mixer, given[0], given[1], output))

    mixers = {name: block.get_submodule("mixer") for name, block in blocks_of(network).items()}
    hooks = [mixer.register_forward_hook(record(name)) for name, mixer in mixers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def by_stage(seen: list[Seen]) -> list[Seen]:
    """Return the last block of each stage."""
    last = {entry.name.split(",")[0]: entry for entry in seen}
    return list(last.values())

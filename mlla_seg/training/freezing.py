"""Freezing of the encoder, for the whole training or its first steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from mlla_seg.errors import InputError
from mlla_seg.progress import note

FREEZABLE = ("encoder",)
"""Parts of a network that can be frozen."""


@dataclass(frozen=True)
class Freezing:
    """A part of the network that keeps its weights and batch-norm statistics.

    The part is in evaluation mode, so batch norm uses the statistics of its weights, and stochastic depth is off.

    Args:
        part: Name of the part, or ``None`` to train all.
        steps: Optimiser steps after which the part is trained too; ``None`` freezes it for good.

    Raises:
        InputError: A number of steps without a part, or below 1.
    """

    part: str | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.part is None:
            raise InputError("--model.freeze_steps needs --model.freeze encoder.")
        if self.steps is not None and self.steps < 1:
            raise InputError(
                f"--model.freeze_steps must be 1 or more, got {self.steps}. Leave it out to freeze the encoder."
            )

    def prepare(self, network: nn.Module) -> None:
        """Compute no gradients of a part that is frozen for good; before DDP, which notes what is trained."""
        if self.part is not None and self.steps is None:
            network.get_submodule(self.part).requires_grad_(False)

    def note_random_weights(self) -> None:
        """Note that a part is frozen that was never trained."""
        if self.part is not None:
            note(f"note: the {self.part} is frozen with random weights: give --model.pretrained FILE.")

    def begin(self, network: nn.Module, step: int) -> None:
        """Set the mode of the part, at the start of training or when it is resumed at ``step``."""
        if self.part is not None:
            network.get_submodule(self.part).train(not self.holds(step))

    def drop_gradients(self, network: nn.Module) -> None:
        """Remove the gradients of the part, so that the optimiser leaves it as it is.

        With several processes the gradients of a part that is trained later must be computed: DDP expects them.
        """
        if self.part is not None:
            for parameter in network.get_submodule(self.part).parameters():
                parameter.grad = None

    def holds(self, step: int) -> bool:
        """Return whether the part is frozen in the step after ``step`` steps of the optimiser."""
        return self.part is not None and step < (math.inf if self.steps is None else self.steps)

    def ends(self, step: int) -> bool:
        """Return whether the part is trained from this step on."""
        return self.part is not None and step == self.steps

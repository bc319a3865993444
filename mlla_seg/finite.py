"""Guards against NaN and infinite values in losses, weights and logits.

This module does not import torch, because the runtime of exported networks works without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlla_seg.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

NAMED = 8
"""Maximum number of case names in a message."""
LOWER_RATE = "Lower --model.lr, or set --trainer.gradient_clip_val 1."
"""Advice for diverging training."""


def require_finite_loss(loss: float, step: int, names: Sequence[str]) -> None:
    """Check that a loss is finite, because the next optimiser step would spread NaN to every weight.

    Args:
        loss: Loss of a batch.
        step: Index of the next optimiser step, for the message.
        names: Names of the cases in the batch.

    Raises:
        InputError: The loss is NaN or infinite; the message names the cases.
    """
    if math.isfinite(loss):
        return
    named = list(dict.fromkeys(names))  # several slices may belong to one case
    shown = ", ".join(named[:NAMED]) + (f", ... ({len(named)} in all)" if len(named) > NAMED else "")
    raise InputError(
        f"The loss is {loss} at step {step}, so training stops; earlier checkpoints are kept. {LOWER_RATE} "
        f"Also check the files of this batch: {shown}"
    )


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors with NaN or infinite values."""
    return [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]


def require_finite_weights(where: str | Path, weights: Mapping[str, Tensor], what_next: str) -> None:
    """Check that weights are finite.

    Args:
        where: File or context, for the message.
        weights: Tensors by name.
        what_next: Advice to the user.

    Raises:
        InputError: Some weights are NaN or infinite.
    """
    if names := not_finite(weights):
        raise InputError(
            f"{where}: {len(names)} of {len(weights)} tensors contain NaN or infinite values, such as {names[0]}: "
            f"the training diverged. {what_next}"
        )


def require_finite_logits(largest: Any) -> None:
    """Check that logits are finite before they become labels.

    Args:
        largest: Largest logit of each pixel, an array or tensor; it is NaN if any logit of the pixel is.

    Raises:
        InputError: Some are NaN or infinite; the caller adds the name of the image.
    """
    finite = abs(largest) < math.inf  # false for NaN; works for arrays and tensors
    if not finite.all():
        count, total = int((~finite).sum()), math.prod(finite.shape)
        raise InputError(
            f"the network gives NaN or infinite logits for {count} of {total} pixels, so no mask is written. "
            "Its training may have diverged, the image may contain values far outside the training range, or "
            "--precision may be too low."
        )

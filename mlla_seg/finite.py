"""What is no number stops here: it is not learned from, not saved, not loaded, and no mask is made of it.

Nothing here imports torch: the runtime of exported networks works without it.
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
"""Cases of a batch that a message names."""
LOWER_RATE = "Lower --model.lr, or set --trainer.gradient_clip_val 1."
"""What to do about a training that diverges."""


def require_finite_loss(loss: float, step: int, names: Sequence[str]) -> None:
    """Refuses to go on from a loss that is NaN or infinite: every weight would be after the next step.

    Args:
        loss: Of a batch.
        step: The optimiser step that would follow, for the message.
        names: The cases of the batch.

    Raises:
        InputError: Names the cases, and what to try.
    """
    if math.isfinite(loss):
        return
    named = list(dict.fromkeys(names))  # several slices may be of one case
    shown = ", ".join(named[:NAMED]) + (f", ... ({len(named)} in all)" if len(named) > NAMED else "")
    raise InputError(
        f"The loss is {loss} at step {step}, so training stops; checkpoints saved before are kept. {LOWER_RATE} "
        f"Or look at the files of this batch: {shown}"
    )


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinite numbers."""
    return [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]


def require_finite_weights(where: str | Path, weights: Mapping[str, Tensor], what_next: str) -> None:
    """Refuses weights of which some are NaN or infinite.

    Args:
        where: The file, or what they are of, for the message.
        weights: Tensors by name.
        what_next: What the user can do.

    Raises:
        InputError: Says how many there are, and one of them.
    """
    if names := not_finite(weights):
        raise InputError(
            f"{where}: {len(names)} of {len(weights)} tensors hold NaN or infinite numbers, such as {names[0]}: "
            f"the training diverged. {what_next}"
        )


def require_finite_logits(largest: Any) -> None:
    """Refuses to make labels of logits that are NaN or infinite.

    Args:
        largest: The largest logit of each pixel, an array or a tensor; it is NaN where any of them is.

    Raises:
        InputError: Says of how many pixels; the caller knows the image.
    """
    finite = abs(largest) < math.inf  # not of NaN; arrays and tensors alike
    if not finite.all():
        count, total = int((~finite).sum()), math.prod(finite.shape)
        raise InputError(
            f"the network gives NaN or infinite logits for {count} of {total} pixels, so no mask is made. "
            "Its training may have diverged, the image may hold values far from those of the training, or "
            "--precision is too coarse."
        )

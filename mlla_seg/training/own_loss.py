"""Losses written by users, named by class path as their encoders are; see :mod:`mlla_seg.models.own`."""

import torch
from torch import Tensor, nn

from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.errors import InputError
from mlla_seg.models.ops import at_least_float32
from mlla_seg.models.own import class_of
from mlla_seg.training.distributed import mean_over_processes

SIDE = 16
"""Pixels along each axis of the batch with which a loss is tried."""


class OwnLoss(nn.Module):
    """Loss written by a user, the mean over processes of what each computes from its part of the batch.

    Contract: ``MyLoss()`` is a ``torch.nn.Module`` that takes logits ``(B, K, *spatial)`` in at least float32 and class
    indices ``(B, *spatial)``, 255 where the class is unknown, and returns a scalar.

    Args:
        name: Class path, of a module that is imported.
        classes: Number of classes, K.
        axes: Number of spatial axes, 2 or 3.
        of_regions: Whether regions are trained, for which masks of class indices say too little.

    Raises:
        InputError: The class does not keep the contract on a small batch, or regions are trained.
    """

    def __init__(self, name: str, classes: int, axes: int = 2, of_regions: bool = False) -> None:
        super().__init__()
        if of_regions:
            raise InputError(f"--model.loss {name} is for classes, not for regions: use dice, focal or tversky.")
        build = class_of(name, "loss")
        logits = torch.linspace(-1, 1, 2 * classes * SIDE**axes).reshape(2, classes, *[SIDE] * axes).requires_grad_()
        mask = torch.arange(2 * SIDE**axes).reshape(2, *[SIDE] * axes) % (classes + 1)
        mask = torch.where(mask == classes, IGNORE_INDEX, mask)
        tried = f"built without arguments, tried with logits {tuple(logits.shape)} and class indices, 255 where unknown"
        try:
            self.loss = build()
            value = self.loss(logits, mask)
        except Exception as error:  # the user's code
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(f"{name} cannot be used as a loss: {reason} ({tried}).") from error
        if not (isinstance(value, Tensor) and value.ndim == 0 and value.isfinite() and value.requires_grad):
            shape = tuple(value.shape) if isinstance(value, Tensor) and value.ndim else value
            raise InputError(
                f"{name} cannot be used as a loss: it returns {shape}, expected a finite scalar with gradients "
                f"({tried})."
            )

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        return mean_over_processes(self.loss(at_least_float32(logits), mask))

"""The parts of a pretraining method: a module and a data module, which its config names by ``class_path``.

To add one, write a subclass of each and a config that names them; the command, checkpoints, logging and resuming are
shared, see :mod:`mlla_seg.pretraining.command`.
"""

from typing import Any, Protocol

from lightning.pytorch import LightningDataModule

from mlla_seg.models.checkpoint import PRETRAINING_KEY
from mlla_seg.training.optimised import OptimisedModule


class Spec(Protocol):
    """Description of the data that the module of a pretraining needs, such as its channels."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, as they are passed to the module and saved in checkpoints."""
        ...


class PretrainingData(LightningDataModule):
    """Data module of a pretraining.

    Contract: batches are dicts with the key ``image``, ``(B, C, H, W)``, already normalised. Samples depend on seed,
    epoch and index alone, and the loader begins at ``start``, so that a resumed run sees what an uninterrupted one
    would.
    """

    spec: Spec
    """What the argument ``spec`` of the module becomes, by its ``to_dict()``."""
    start = (0, 0)
    """Epoch, and batches of it that a resumed run has done."""

    @property
    def validates(self) -> bool:
        """Whether there is something to validate."""
        raise NotImplementedError

    def in_words(self) -> str:
        """Describe what was found, in a line."""
        raise NotImplementedError


class PretrainingModule(OptimisedModule):
    """LightningModule of a pretraining: trains a ``network`` with an ``encoder``, whose weights start segmenters.

    Contract, besides that of :class:`~mlla_seg.training.optimised.OptimisedModule`: the argument ``spec`` takes the
    description of the data, and ``kind``, ``best_by`` and :meth:`moments` are set.
    """

    kind: str
    """Name of the method in checkpoints."""
    best_by: tuple[str, str]
    """Logged value by which ``best.ckpt`` is chosen, and whether the largest (``max``) or smallest (``min``) wins."""

    def moments(self) -> dict[str, Any]:
        """Return how images were normalised, in raw units, as ``Normalisation.to_dict()`` does."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[PRETRAINING_KEY] = {"kind": self.kind, **self.moments()}

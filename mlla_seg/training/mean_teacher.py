"""Mean teacher: on images without labels, the network learns from the moving average of its own weights.

Tarvainen and Valpola, arXiv 1703.01780; weight and ramp-up as in SSL4MIS for medical segmentation. The average
(:class:`~mlla_seg.training.ema.WarmEMA`) sees images without changes of intensity, the network sees them with.
"""

import math

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from mlla_seg.errors import InputError
from mlla_seg.models.ops import at_least_float32, full_precision
from mlla_seg.training.distributed import sum_over_processes
from mlla_seg.training.ema import WarmEMA, ema_of


def teacher_callbacks(trainer: Trainer) -> list[Callback]:
    """Return the callback with the averaged weights if a trainer lacks it.

    Raises:
        InputError: It averages weights in another way.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by the trainer's connector
    averages = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
    if other := next((one for one in averages if not isinstance(one, WarmEMA)), None):
        raise InputError(
            f"--data.unlabelled averages weights by mlla_seg.training.ema.WarmEMA, not by {type(other).__name__}: "
            "remove it from --trainer.callbacks."
        )
    return [] if averages else [WarmEMA()]


@torch.no_grad()
def teacher_logits(trainer: Trainer, image: Tensor) -> Tensor:
    """Return the logits ``(B, K, *spatial)`` of the averaged weights in evaluation mode, for normalised images."""
    average = ema_of(trainer)
    assert average is not None
    network = average.module.network.eval()
    kind = next(network.parameters()).dtype  # the average stays float32 in trainings that are not
    logits: Tensor = network.segment(image.to(kind))
    return logits


def ramped(progress: float, length: float) -> float:
    """Return the factor of the consistency loss, which rises from ``exp(-5)`` to 1 along a Gaussian.

    Args:
        progress: Fraction of the training that is done.
        length: Fraction at which 1 is reached; 0 for 1 from the start.
    """
    left = 1 - min(1.0, progress / length) if length else 0.0
    return math.exp(-5 * left**2)


def consistency_loss(logits: Tensor, wanted: Tensor, valid: Tensor, regions: bool = False) -> Tensor:
    """Return the mean squared difference of probabilities over classes and valid pixels of the global batch.

    If no pixel is valid, the loss and its gradients are 0.

    Args:
        logits: ``(B, K, *spatial)`` of the network.
        wanted: Those of the averaged weights.
        valid: ``(B, *spatial)``, false where there are no data.
        regions: Whether outputs are regions, each with a sigmoid.
    """
    with full_precision(logits.device):
        logits, wanted = at_least_float32(logits), at_least_float32(wanted)
        ours, theirs = (x.sigmoid() if regions else x.softmax(dim=1) for x in (logits, wanted))
        squares = torch.where(valid[:, None], (ours - theirs).square(), 0.0).mean(dim=1)
        total, count = sum_over_processes(torch.stack((squares.sum(), valid.sum().to(squares))))
        return total / count.clamp(min=1)

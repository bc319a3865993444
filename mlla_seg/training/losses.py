"""Cross-entropy and soft Dice loss over the global batch, without ignored pixels, for classes or for regions.

Existing Dice losses average per-device ratios (Dice is a ratio of sums over the global batch), give NaN or a constant
on batches in which every pixel is ignored, or lack the squared denominators of published Synapse recipes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.models.ops import at_least_float32, full_precision
from mlla_seg.training.distributed import sum_over_processes

SMOOTH = 1e-5
"""Added to numerator and denominator of Dice, so that a class absent from truth and prediction adds no loss."""


def segmentation_loss(
    logits: Tensor,
    mask: Tensor,
    ce_weight: float = 1.0,
    dice_weight: float = 1.0,
    class_weights: Tensor | None = None,
    squared_dice: bool = False,
    ignore_index: int = IGNORE_INDEX,
    regions: Tensor | None = None,
) -> Tensor:
    """``ce_weight`` x cross-entropy + ``dice_weight`` x (1 - soft Dice, averaged over classes).

    With regions, each is a class of its own with a sigmoid: the cross-entropy is the binary one, averaged over pixels
    and regions, and Dice is averaged over regions.

    All sums run over the whole batch and all processes before any ratio is taken. If every pixel is ignored, the loss
    and its gradients are 0.

    Args:
        logits: ``(B, K, H, W)``, or ``(B, R, H, W)`` of regions.
        mask: ``(B, H, W)`` class indices, ``ignore_index`` where the class is unknown.
        ce_weight: Weight of the cross-entropy.
        dice_weight: Weight of the Dice loss.
        class_weights: ``(K,)`` or ``(R,)`` weights in both terms, which are weighted means: the scale does not matter.
        squared_dice: Square the probabilities in the denominator of Dice, as V-Net and TransUNet do.
        ignore_index: Class index of ignored pixels.
        regions: ``(R, K)``, 1 for the classes of each region and 0 for others.

    Returns:
        A scalar in at least float32, the same in every process.
    """
    with full_precision(logits.device):
        logits = at_least_float32(logits)
        outputs = logits.shape[1]
        valid = mask != ignore_index
        target = torch.where(valid, mask, 0)
        weights = logits.new_ones(outputs) if class_weights is None else class_weights.to(logits)

        if regions is None:
            pixel_weights = torch.where(valid, weights[target], 0.0)
            log_probabilities = F.log_softmax(logits, dim=1)
            nll = -log_probabilities.gather(1, target[:, None])[:, 0]
            nll = (torch.where(valid, nll, 0.0) * pixel_weights).sum()
            total_weight = pixel_weights.sum()
            truth = F.one_hot(target, outputs).movedim(-1, 1)  # (B, K, H, W)
            probabilities = log_probabilities.exp()
        else:
            truth = regions.to(logits)[:, target].movedim(0, 1)  # (B, R, H, W)
            losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            nll = (torch.where(valid[:, None], losses, 0.0).sum((0, 2, 3)) * weights).sum()
            total_weight = valid.sum() * weights.sum()
            probabilities = logits.sigmoid()

        truth = torch.where(valid[:, None], truth, 0).to(logits.dtype)
        probabilities = torch.where(valid[:, None], probabilities, 0.0)
        pixels = (0, 2, 3)
        size = probabilities.square().sum(pixels) if squared_dice else probabilities.sum(pixels)
        sums = torch.cat((nll[None], total_weight[None], (probabilities * truth).sum(pixels), size + truth.sum(pixels)))
        sums = sum_over_processes(sums)
        nll, total_weight = sums[:2]
        overlap, total = sums[2:].chunk(2)
        cross_entropy = nll / total_weight.clamp(min=torch.finfo(torch.float32).tiny)
        dice = (2 * overlap + SMOOTH) / (total + SMOOTH)
        return ce_weight * cross_entropy + dice_weight * ((1 - dice) * weights).sum() / weights.sum()


class SegmentationLoss(nn.Module):
    """:func:`segmentation_loss` with its settings; ``regions`` as in :func:`mlla_seg.data.regions.membership`."""

    class_weights: Tensor | None
    regions: Tensor | None

    def __init__(
        self,
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
        squared_dice: bool = False,
        ignore_index: int = IGNORE_INDEX,
        regions: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.ce_weight = ce_weight
        self.dice_weight = dice_weight
        self.squared_dice = squared_dice
        self.ignore_index = ignore_index
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        inside = None if regions is None else torch.tensor(regions, dtype=torch.float32)
        self.register_buffer("regions", inside, persistent=False)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        return segmentation_loss(
            logits,
            mask,
            self.ce_weight,
            self.dice_weight,
            self.class_weights,
            self.squared_dice,
            self.ignore_index,
            self.regions,
        )

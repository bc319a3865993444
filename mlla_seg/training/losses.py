"""Cross-entropy and soft Dice loss over the global batch, without ignored pixels, for classes or for regions.

The cross-entropy can be replaced by the focal loss, and Dice by the Tversky or the Lovász loss. Existing Dice losses
average per-device ratios (Dice is a ratio of sums over the global batch), give NaN or a constant on batches in which
every pixel is ignored, or lack the squared denominators of published Synapse recipes. The Lovász loss is no function of
sums: with several processes it is their mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.errors import InputError, lookup
from mlla_seg.models.ops import at_least_float32, full_precision
from mlla_seg.training.distributed import mean_over_processes, sum_over_processes
from mlla_seg.training.numbers import require_loss_weights

SMOOTH = 1e-5
"""Added to numerator and denominator of Dice, so that a class absent from truth and prediction adds no loss."""
LOSSES = {
    "dice": "cross-entropy and Dice",
    "focal": "focal loss and Dice",
    "tversky": "cross-entropy and Tversky loss",
    "lovasz": "cross-entropy and Lovász loss",
}
"""The two terms of each loss; ``ce_weight`` is the weight of the first and ``dice_weight`` that of the second."""
GAMMA = 2
"""Exponent of the focal loss (arXiv 1708.02002)."""
FALSE_POSITIVES, FALSE_NEGATIVES = 0.3, 0.7
"""Weights in the Tversky loss (arXiv 1706.05721): missed pixels count more."""


def segmentation_loss(
    logits: Tensor,
    mask: Tensor,
    ce_weight: float = 1.0,
    dice_weight: float = 1.0,
    class_weights: Tensor | None = None,
    squared_dice: bool = False,
    ignore_index: int = IGNORE_INDEX,
    regions: Tensor | None = None,
    kind: str = "dice",
) -> Tensor:
    """``ce_weight`` x cross-entropy + ``dice_weight`` x (1 - soft Dice, averaged over classes).

    With regions, each is a class of its own with a sigmoid: the cross-entropy is the binary one, averaged over pixels
    and regions, and Dice is averaged over regions.

    All sums run over the whole batch and all processes before any ratio is taken. If every pixel is ignored, the loss
    and its gradients are 0.

    Args:
        logits: ``(B, K, *spatial)``, or ``(B, R, *spatial)`` of regions.
        mask: ``(B, *spatial)`` class indices, ``ignore_index`` where the class is unknown.
        ce_weight: Weight of the cross-entropy.
        dice_weight: Weight of the Dice loss.
        class_weights: ``(K,)`` or ``(R,)`` weights in both terms, which are weighted means: the scale does not matter.
        squared_dice: Square the probabilities in the denominator of Dice, as V-Net and TransUNet do.
        ignore_index: Class index of ignored pixels.
        regions: ``(R, K)``, 1 for the classes of each region and 0 for others.
        kind: A key of ``LOSSES``: other terms in place of cross-entropy or Dice. The Lovász loss has no class weights.

    Returns:
        A scalar in at least float32, the same in every process.
    """
    with full_precision(logits.device):
        logits = at_least_float32(logits)
        outputs, pixels = logits.shape[1], (0, *range(2, logits.dim()))
        valid = mask != ignore_index
        target = torch.where(valid, mask, 0)
        weights = logits.new_ones(outputs) if class_weights is None else class_weights.to(logits)

        if regions is None:
            pixel_weights = torch.where(valid, weights[target], 0.0)
            log_probabilities = F.log_softmax(logits, dim=1)
            nll = -log_probabilities.gather(1, target[:, None])[:, 0]
            nll = (torch.where(valid, focused(nll, kind), 0.0) * pixel_weights).sum()
            total_weight = pixel_weights.sum()
            truth = F.one_hot(target, outputs).movedim(-1, 1)  # (B, K, *spatial)
            probabilities = log_probabilities.exp()
        else:
            truth = regions.to(logits)[:, target].movedim(0, 1)  # (B, R, *spatial)
            losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            nll = (torch.where(valid[:, None], focused(losses, kind), 0.0).sum(pixels) * weights).sum()
            total_weight = valid.sum() * weights.sum()
            probabilities = logits.sigmoid()

        truth = torch.where(valid[:, None], truth, 0).to(logits.dtype)
        probabilities = torch.where(valid[:, None], probabilities, 0.0)
        size = probabilities.square().sum(pixels) if squared_dice else probabilities.sum(pixels)
        sums = torch.stack(((probabilities * truth).sum(pixels), size, truth.sum(pixels))).flatten()
        nll, total_weight, *sums = sum_over_processes(torch.cat((nll[None], total_weight[None], sums))).split(
            (1, 1, outputs, outputs, outputs)
        )
        cross_entropy = nll[0] / total_weight[0].clamp(min=torch.finfo(torch.float32).tiny)
        if kind == "lovasz":
            return ce_weight * cross_entropy + dice_weight * mean_over_processes(lovasz(logits, target, valid))
        overlap, found, true = sums
        if kind == "tversky":
            spread = FALSE_POSITIVES * (found - overlap) + FALSE_NEGATIVES * (true - overlap)
            score = (overlap + SMOOTH) / (overlap + spread + SMOOTH)
        else:
            score = (2 * overlap + SMOOTH) / (found + true + SMOOTH)
        return ce_weight * cross_entropy + dice_weight * ((1 - score) * weights).sum() / weights.sum()


def focused(nll: Tensor, kind: str) -> Tensor:
    """Return the focal loss of pixels from their cross-entropy, ``(1 - p) ** GAMMA * nll`` with ``p = exp(-nll)``.

    Unchanged unless ``kind`` is ``focal``.
    """
    return (-torch.expm1(-nll)) ** GAMMA * nll if kind == "focal" else nll


def lovasz(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return the Lovász-Softmax loss (arXiv 1705.08790) of the valid pixels, averaged over the classes among them.

    Args:
        logits: ``(B, K, *spatial)``.
        target: ``(B, *spatial)`` class indices.
        valid: ``(B, *spatial)``, false for ignored pixels.
    """
    from segmentation_models_pytorch.losses import LovaszLoss

    kept = logits.movedim(1, -1)[valid].float()  # (N, K); smp takes no float64
    if not len(kept):
        return kept.sum()  # smp returns an empty tensor
    return LovaszLoss("multiclass")(kept[..., None, None], target[valid][:, None, None])


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
        kind: str = "dice",
    ) -> None:
        super().__init__()
        lookup(LOSSES, kind, "--model.loss")
        require_loss_weights(ce_weight, dice_weight, class_weights)
        if kind == "lovasz" and regions is not None:
            raise InputError("--model.loss lovasz is for classes, not for regions: use dice, focal or tversky.")
        if squared_dice and kind in ("tversky", "lovasz"):
            raise InputError(f"--model.squared_dice applies to the Dice loss, which --model.loss {kind} does not have.")
        self.kind = kind
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
            self.kind,
        )

"""Evaluation protocol of TransUNet (arXiv 2102.04306), used by most papers on Synapse and ACDC.

Each slice is resized to the network's input size by a cubic spline and its labels back by nearest-neighbour
interpolation; Dice and HD95 per volume and class follow medpy's definitions, with distances in voxels whatever the
spacing. The published script scores a class that is missing from the prediction with Dice 0 and HD95 0, even if it is
absent from the truth as well, and one that only the prediction contains with Dice 1 and HD95 0. Compare these numbers
only with papers, not with :mod:`mlla_seg.evaluation.surface_distance`: missing a class lowers the mean distance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mlla_seg.data import outputs
from mlla_seg.data.slices import View, slices_at, standardised
from mlla_seg.evaluation.surface_distance import surface_distances
from mlla_seg.finite import require_finite_logits

SIZE = (224, 224)
"""Default input size, height and width, as in the papers."""
MEASURES = ("dice", "hd95")


@torch.inference_mode()
def transunet_labels(
    network: nn.Module,
    volume: Tensor,
    view: View,
    size: Sequence[int] = SIZE,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    writes: list[int] | None = None,
) -> Tensor:
    """Return labels ``(S, H, W)`` uint8 of a case ``(S, C, H, W)``: spline of order 3 to ``size``, order 0 back.

    Only the neighbouring slices and the per-case standardisation of the view are used. For the other arguments see
    :func:`mlla_seg.inference.steps.case_logits`, and for ``writes`` :mod:`mlla_seg.data.outputs`.
    """
    from scipy.ndimage import zoom

    height, width = volume.shape[-2:]
    there = (size[0] / height, size[1] / width)
    back = (height / size[0], width / size[1])
    moments = view.moments(volume)
    labels = []
    for positions in torch.arange(len(volume)).split(batch_size):
        chunk = standardised(slices_at(volume, positions.tolist(), view.context).float().numpy(), moments, view.context)
        if chunk.shape[-2:] != tuple(size):
            chunk = np.stack([[zoom(channel, there, order=3) for channel in image] for image in chunk])
        logits = network(torch.from_numpy(chunk).to(device))
        require_finite_logits(logits.amax(dim=1))
        indices = outputs.labels(logits, writes).cpu().numpy()
        labels += [piece if piece.shape == (height, width) else zoom(piece, back, order=0) for piece in indices]
    return torch.from_numpy(np.stack(labels))


def transunet_scores(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Return Dice and HD95 in voxels as the published script does, ``(K, 2)`` float64; NaN for class 0.

    Args:
        prediction: Class indices ``(S, H, W)``.
        mask: True class indices ``(S, H, W)``; ignored voxels count as class 0, in the prediction too.
        num_classes: Number of classes K.
    """
    prediction = torch.where(mask < num_classes, prediction, 0)
    scores = torch.full((num_classes, len(MEASURES)), torch.nan, dtype=torch.float64)
    for k in range(1, num_classes):
        predicted, truth = prediction == k, mask == k
        if predicted.any() and truth.any():
            dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
            # medpy takes one percentile over the distances of both directions
            hd95 = torch.cat(surface_distances(predicted, truth, (1.0,) * truth.ndim)).quantile(0.95)
            scores[k] = torch.stack((dice.double(), hd95))
        else:
            scores[k] = torch.tensor([float(predicted.any()), 0.0])
    return scores

"""Effective receptive field: how much each input pixel changes an output, by its gradient (arXiv 1701.04128)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mlla_seg.data.formats.picture import Array
from mlla_seg.models.segmenter import Segmenter


def receptive_field(network: Segmenter, image: Tensor, row: int, column: int) -> Array:
    """Return ``|d s / d image|``, summed over channels, of the largest logit s at a pixel.

    Args:
        network: Segmenter in evaluation mode.
        image: Normalised image ``(1, C, H, W)``, as :meth:`~mlla_seg.models.segmenter.Segmenter.segment` takes it.
        row: Row of the pixel.
        column: Column of the pixel.

    Returns:
        ``(H, W)`` float64, not normalised.
    """
    image = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        score = network.segment(image)[0, :, row, column].max()
        (gradient,) = torch.autograd.grad(score, image)
    return gradient[0].abs().sum(dim=0).double().cpu().numpy()


def reach(field: Array, row: int, column: int, share: float) -> float:
    """Return the radius in pixels of the smallest disc around a pixel that holds a share of a field's sum.

    Args:
        field: Non-negative ``(H, W)``.
        row: Row of the centre.
        column: Column of the centre.
        share: Fraction of the sum, from 0 to 1.
    """
    rows, columns = np.indices(field.shape)
    distance = np.hypot(rows - row, columns - column).ravel()
    order = np.argsort(distance, kind="stable")
    held = np.cumsum(field.ravel()[order])
    return float(distance[order][min(np.searchsorted(held, share * held[-1]), len(order) - 1)])

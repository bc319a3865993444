"""Multiply-accumulates of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def macs(network: nn.Module, image: Tensor) -> int:
    """Return the multiply-accumulates of convolutions and matrix products in one forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() // 2

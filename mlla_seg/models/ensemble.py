"""Test-time augmentation and ensembles, wrapped as a single network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Flips(nn.Module):
    """Test-time augmentation: averages a network's logits over four flips (none, horizontal, vertical, both)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.mirrored = [[-1], [-2], [-2, -1]]  # axes; an attribute, as TorchScript cannot read globals

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to logits ``(B, K, H, W)``."""
        total = self.network(x)
        for axes in self.mirrored:
            total = total + self.network(x.flip(axes)).flip(axes)
        return total / (len(self.mirrored) + 1)


class Ensemble(nn.Module):
    """Ensemble of networks: the softmax of its logits is the mean of the members' probabilities."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.smallest = torch.finfo(torch.float32).tiny

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to logits ``(B, K, H, W)``."""
        total = torch.zeros(1, device=x.device)
        for member in self.members:  # TorchScript cannot list the outputs of modules
            total = total + member(x).float().softmax(dim=1)
        return (total / len(self.members)).clamp(min=self.smallest).log()

"""Test-time augmentation and ensembles, wrapped as a single network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlla_seg.data.outputs import probabilities


class Flips(nn.Module):
    """Test-time augmentation: averages a network's logits over four flips (none, horizontal, vertical, both).

    Slices of volumes keep their order.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.mirrored = [[-1], [-2], [-2, -1]]  # axes; an attribute, as TorchScript cannot read globals

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)``, or volumes ``(B, C, D, H, W)``, to logits ``(B, K, H, W)`` likewise."""
        total = self.network(x)
        for axes in self.mirrored:
            total = total + self.network(x.flip(axes)).flip(axes)
        return total / (len(self.mirrored) + 1)


def combined(
    network: nn.Module, others: Sequence[nn.Module] = (), writes: list[int] | None = None, tta: bool = False
) -> nn.Module:
    """Return the network, as an ensemble with others and with test-time augmentation if there are any."""
    together = Ensemble([network, *others], writes) if others else network
    return Flips(together) if tta else together


class Ensemble(nn.Module):
    """Ensemble of networks: the probabilities of its logits are the mean of the members' probabilities.

    Args:
        members: The networks.
        writes: Class that each region writes, None for networks of classes; see :mod:`mlla_seg.data.outputs`.
    """

    def __init__(self, members: Sequence[nn.Module], writes: list[int] | None = None) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.writes = writes
        self.smallest = torch.finfo(torch.float32).tiny

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to logits ``(B, K, H, W)``."""
        inside, outside = torch.zeros(1, device=x.device), torch.zeros(1, device=x.device)
        for member in self.members:  # TorchScript cannot list the outputs of modules
            logits = member(x).float()
            inside = inside + probabilities(logits, self.writes)
            if self.writes is not None:
                outside = outside + (-logits).sigmoid()  # exact where 1 - inside would be rounded
        if self.writes is None:
            return (inside / len(self.members)).clamp(min=self.smallest).log()
        return inside.clamp(min=self.smallest).log() - outside.clamp(min=self.smallest).log()

"""Test-time augmentation and ensembles, wrapped as a single network."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from mlla_seg.data.outputs import probabilities
from mlla_seg.data.slices import AXES


class Flips(nn.Module):
    """Test-time augmentation: averages a network's logits over all mirror images along some axes.

    Two axes give four: the image itself, mirrored along one, along the other, and along both; three axes give eight.

    Args:
        network: The network.
        axes: Names in :data:`mlla_seg.data.slices.AXES`; those along which its training samples were mirrored.
    """

    def __init__(self, network: nn.Module, axes: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        places = [-1 - place for place, axis in enumerate(reversed(AXES)) if axis in axes]
        # An attribute, as TorchScript cannot read globals.
        self.mirrored = [list(some) for k in range(len(places)) for some in combinations(places, k + 1)]

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)``, or volumes ``(B, C, D, H, W)``, to logits ``(B, K, H, W)`` likewise."""
        total = self.network(x)
        for axes in self.mirrored:
            total = total + self.network(x.flip(axes)).flip(axes)
        return total / (len(self.mirrored) + 1)


def combined(
    network: nn.Module, others: Sequence[nn.Module] = (), writes: list[int] | None = None, flips: Sequence[str] = ()
) -> nn.Module:
    """Return the network, as an ensemble with others and averaged over flips along some axes, if there are any."""
    together = Ensemble([network, *others], writes) if others else network
    return Flips(together, flips) if flips else together


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

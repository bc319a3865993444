"""Test-time augmentation and ensembles as one network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlla_seg.models.ensemble import Ensemble, Flips


@pytest.fixture
def volume():
    return torch.randn(7, 1, 33, 47, generator=torch.Generator().manual_seed(0))


def linear(seed, channels=1):
    torch.manual_seed(seed)
    return nn.Conv2d(channels, 3, 3, padding=1)


def test_flips_average_the_four_mirror_images(volume):
    network = linear(0)
    expected = sum(network(volume.flip(axes)).flip(axes) for axes in ([], [2], [3], [2, 3])) / 4
    torch.testing.assert_close(Flips(network)(volume), expected)
    mirrored = Flips(network)(volume.flip(3)).flip(3)
    torch.testing.assert_close(mirrored, expected)  # so the result does not depend on left and right


def test_flips_of_volumes_keep_the_order_of_slices():
    volume, network = torch.randn(2, 1, 5, 6, 7), nn.Conv3d(1, 3, 3, padding=1)
    expected = sum(network(volume.flip(axes)).flip(axes) for axes in ([], [3], [4], [3, 4])) / 4
    torch.testing.assert_close(Flips(network)(volume), expected)


def test_ensemble_averages_probabilities(volume):
    members = [linear(seed) for seed in range(3)]
    members[1].weight.data *= 100  # a member that is very sure does not outvote the others, as in a mean of logits
    expected = sum(member(volume).softmax(1) for member in members) / 3
    torch.testing.assert_close(Ensemble(members)(volume).softmax(1), expected)
    assert torch.isfinite(Ensemble(members)(volume * 1e4)).all()


def test_ensemble_averages_probabilities_of_regions(volume):
    members = [linear(seed) for seed in range(3)]
    members[1].weight.data *= 100
    expected = sum(member(volume).double().sigmoid() for member in members) / 3
    logits = Ensemble(members, [1, 2, 3])(volume)
    torch.testing.assert_close(logits.sigmoid(), expected.float())
    torch.testing.assert_close(logits > 0, expected > 0.5)
    sure = Ensemble([members[0]], [1, 2, 3])(volume * 20)  # one member is itself, where probabilities round to 1 too
    torch.testing.assert_close(sure, members[0](volume * 20), atol=1e-4, rtol=1e-5)
    assert torch.isfinite(Ensemble(members, [1, 2, 3])(volume * 1e4)).all()

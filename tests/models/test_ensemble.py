"""Test-time augmentation and ensembles as one network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlla_seg.models.ensemble import Ensemble, Flips, combined


@pytest.fixture
def volume():
    return torch.randn(7, 1, 33, 47, generator=torch.Generator().manual_seed(0))


def linear(seed, channels=1):
    torch.manual_seed(seed)
    return nn.Conv2d(channels, 3, 3, padding=1)


def test_flips_average_the_four_mirror_images(volume):
    network = linear(0)
    expected = sum(network(volume.flip(axes)).flip(axes) for axes in ([], [2], [3], [2, 3])) / 4
    flips = Flips(network, ["rows", "columns"])
    torch.testing.assert_close(flips(volume), expected)
    mirrored = flips(volume.flip(3)).flip(3)
    torch.testing.assert_close(mirrored, expected)  # so the result does not depend on left and right


@pytest.mark.parametrize(
    ("axes", "mirrored"),
    [
        (("rows", "columns"), [[3], [4], [3, 4]]),
        (("slices",), [[2]]),
        (("columns", "slices"), [[2], [4], [2, 4]]),
        (("slices", "rows", "columns"), [[2], [3], [4], [2, 3], [2, 4], [3, 4], [2, 3, 4]]),
    ],
)
def test_volumes_are_flipped_along_the_axes_that_are_named_and_no_others(axes, mirrored):
    volume, network = torch.randn(2, 1, 5, 6, 7), nn.Conv3d(1, 3, 3, padding=1)
    expected = sum(network(volume.flip(some)).flip(some) for some in ([], *mirrored)) / (1 + len(mirrored))
    torch.testing.assert_close(Flips(network, axes)(volume), expected)
    assert not torch.allclose(expected, network(volume), atol=1e-3)


def test_without_axes_nothing_is_flipped():
    network = linear(0)
    assert combined(network, flips=()) is network
    assert isinstance(combined(network, flips=["rows"]), Flips)


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

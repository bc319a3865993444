"""The one path from slices to labels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlla_seg.inference import predict_case, predict_logits
from mlla_seg.slices import network_grid, slices_at


class Threshold(nn.Module):
    """A pixel-wise network: class 1 where the image is above zero; remembers the sizes it saw."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        return torch.cat((-x, x), dim=1)


@pytest.fixture
def volume():
    return torch.randn(7, 1, 33, 47, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("window", [None, (16, 16), (33, 20), (100, 100)])
def test_labels_do_not_depend_on_batches_or_windows(volume, batch_size, window):
    network = Threshold()
    labels = predict_case(network, volume, "cpu", window=window, batch_size=batch_size)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, (volume[:, 0] > 0).to(torch.uint8))
    limit = (33, 47) if window is None else tuple(min(a, b) for a, b in zip((33, 47), window, strict=True))
    assert {shape[2:] for shape in network.seen} == {limit}


@pytest.mark.parametrize(("resize", "size"), [((64, 32), (64, 32)), (1.5, (50, 70)), (0.5, (16, 24))])
def test_network_sees_the_resized_image_and_logits_come_back(volume, resize, size):
    network = Threshold()
    logits = predict_logits(network, volume, network_grid((7, 33, 47), None, {"resize": resize})[1:])
    assert network.seen == [(7, 1, *size)]
    assert logits.shape == (7, 2, 33, 47)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_neighbours_are_channels_and_the_ends_repeat(batch_size):
    volume = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 4, 4)
    seen = []

    def network(x):
        seen.append(x[:, :, 0, 0])
        return x[:, :2]

    predict_case(network, volume, "cpu", context=1, batch_size=batch_size)
    expected = [[a, a, b, b, c, c] for a, b, c in ((0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 4))]
    assert torch.cat(seen).tolist() == expected
    stacked = slices_at(volume.numpy(), [0, 4], 1)[:, :, 0, 0]
    assert stacked.tolist() == [expected[0], expected[4]]


def test_resizing_keeps_things_in_place():
    image = torch.full((1, 1, 40, 40), -1.0)
    image[..., 10:30, 5:20] = 1
    labels = predict_case(Threshold(), image, "cpu", (1, 96, 64))
    assert (labels == (image[:, 0] > 0)).float().mean() > 0.97

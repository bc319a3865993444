"""The common path from slices to labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlla_seg.data.slices import View, slices_at
from mlla_seg.inference.cases import TorchEngine, predict_case
from mlla_seg.inference.steps import case_logits, image_logits


class Threshold(nn.Module):
    """A pixel-wise network: class 1 where the image is above zero; records the input sizes."""

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
    labels = predict_case(network, volume, View(patch_size=window), batch_size=batch_size)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, (volume[:, 0] > 0).to(torch.uint8))
    limit = (33, 47) if window is None else tuple(min(a, b) for a, b in zip((33, 47), window, strict=True))
    assert {shape[2:] for shape in network.seen} == {limit}


@pytest.mark.parametrize(("resize", "size"), [((64, 32), (64, 32)), (1.5, (50, 70)), (0.5, (16, 24))])
def test_network_sees_the_resized_image_and_logits_come_back(volume, resize, size):
    network = Threshold()
    logits = image_logits(TorchEngine(network), volume, View(resize=resize).grid((7, 33, 47))[1:])
    assert network.seen == [(7, 1, *size)]
    assert logits.shape == (7, 2, 33, 47)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_neighbours_are_channels_and_the_ends_repeat(batch_size):
    volume = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 4, 4)
    seen = []

    def network(x):
        seen.append(x[:, :, 0, 0])
        return x[:, :2]

    predict_case(network, volume, View(context=1), batch_size=batch_size)
    expected = [[a, a, b, b, c, c] for a, b, c in ((0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 4))]
    assert torch.cat(seen).tolist() == expected
    stacked = slices_at(volume.numpy(), [0, 4], 1)[:, :, 0, 0]
    assert stacked.tolist() == [expected[0], expected[4]]


def test_resizing_keeps_things_in_place():
    image = torch.full((1, 1, 40, 40), -1.0)
    image[..., 10:30, 5:20] = 1
    labels = predict_case(Threshold(), image, View(resize=(96, 64)))
    assert (labels == (image[:, 0] > 0)).float().mean() > 0.97


@pytest.mark.parametrize(
    ("shape", "spacing", "how", "grid"),
    [
        ((10, 40, 50), (3.0, 1.0, 0.5), {"spacing_mm": [1.5, 2.0, 0.5]}, (20, 20, 50)),
        ((10, 40, 50), (3.0, 1.0, 0.5), {"spacing_mm": [None, 2.0, 1.0]}, (10, 20, 25)),
        ((10, 40, 50), None, {"spacing_mm": [1.5, 2.0, 0.5]}, (10, 40, 50)),
        ((1, 40, 50), (3.0, 1.0, 0.5), {"spacing_mm": [1.5, 2.0, 0.5]}, (1, 20, 50)),
        ((10, 40, 50), (3.0, 1.0, 0.5), {"spacing_mm": [1.5, 2.0, 0.5], "resize": 2.0}, (20, 40, 100)),
        ((10, 40, 50), (3.0, 1.0, 0.5), {"spacing_mm": [1.5, 2.0, 0.5], "resize": [8, 9]}, (20, 8, 9)),
        ((2, 1, 50), (1.0, 1.0, 1.0), {"spacing_mm": [9.0, 9.0, 100.0]}, (1, 1, 1)),
    ],
)
def test_grid_of_the_network(shape, spacing, how, grid):
    assert View(**how).grid(shape, spacing) == grid


@pytest.mark.parametrize("slices", [3, 7, 11, 28])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_logits_of_resampled_slices_come_back_linearly(volume, slices, batch_size):
    """Compared with resampling the whole volume and all logits at once."""

    def network(x):
        return torch.cat((x, x.square()), dim=1)

    def resample(stack, count):
        columns = stack.permute(2, 3, 1, 0).flatten(0, 1)  # (H W, K, S)
        moved = F.interpolate(columns, count, mode="linear", align_corners=False)
        return moved.unflatten(0, stack.shape[2:]).permute(3, 2, 0, 1)

    expected = resample(network(resample(volume, slices)), 7)
    view = View(spacing_mm=(7 / slices, None, None))
    assert view.grid((7, 33, 47), (1.0, 1.0, 1.0)) == (slices, 33, 47)
    blocks = list(case_logits(TorchEngine(network), volume, view, (1.0, 1.0, 1.0), batch_size=batch_size))
    torch.testing.assert_close(torch.cat(blocks), expected)


def test_neighbours_are_those_of_the_resampled_volume():
    volume = np.arange(4, dtype=np.int16).reshape(4, 1, 1, 1)
    places = slices_at(volume, range(8), 1, 8)[:, :, 0, 0]
    centres = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert places[:, 1].tolist() == centres
    assert places[:, 0].tolist() == [0, *centres[:-1]]
    assert places[:, 2].tolist() == [*centres[1:], 3]
    assert torch.equal(slices_at(torch.from_numpy(volume), range(8), 1, 8)[:, :, 0, 0], torch.from_numpy(places))


@pytest.mark.parametrize("window", [None, (16, 20)])
def test_cases_are_standardised_as_a_whole(window):
    volume = 1000 + 40 * torch.randn(5, 2, 33, 47, generator=torch.Generator().manual_seed(0))
    volume[:, 1] *= -3
    volume[2] += 200  # a bright slice stays one
    volume[0, :, :4] = torch.nan
    seen = []

    def network(x):
        seen.append(x)
        return x[:, :2]

    predict_case(network, volume, View(patch_size=window, context=1, per_case=True))
    values = volume.double().numpy()
    mean, std = (f(values, axis=(0, 2, 3), keepdims=True) for f in (np.nanmean, np.nanstd))
    expected = torch.from_numpy((values - mean) / std).float()
    if window is None:
        shown = torch.cat(seen)[:, 2:4]
        known = ~expected.isnan()
        torch.testing.assert_close(shown[known], expected[known], atol=1e-5, rtol=1e-5)
        assert shown[2].mean(dim=(1, 2)).abs().min() > 0.9
    assert torch.cat([x.flatten() for x in seen]).isfinite().all()


def test_one_slice_is_a_case_too():
    image = 50 + 9 * torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    labels = predict_case(Threshold(), image, View(patch_size=(32, 32), per_case=True))
    assert torch.equal(labels[0], (image[0, 0] > image.mean()).to(torch.uint8))


@pytest.mark.parametrize("resize", [None, 1.5, (40, 40)])
def test_gaps_are_filled_before_anything_is_resized(resize):
    image = torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    image[0, 0, 4:9, 5:20] = torch.nan
    filled = image.clone()
    filled[0, 0][image[0, 0].isnan()] = image[0, 0].nanmean()
    network, view = torch.nn.Conv2d(1, 2, 3, padding=1), View(resize=resize)
    found, expected = (torch.cat(list(case_logits(TorchEngine(network), case, view))) for case in (image, filled))
    torch.testing.assert_close(found, expected)

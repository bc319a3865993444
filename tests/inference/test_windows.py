"""Sliding window: equal to MONAI's for any stripe and starting row band, each window computed once."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from mlla_seg.data.slices import seen_by_network
from mlla_seg.errors import InputError
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.inference.sliding_window import BLENDS, bands_along, blend_weights, window_starts
from mlla_seg.inference.steps import reader, window_logits
from mlla_seg.models import create_model

SHAPE, WINDOW = (150, 213), (64, 96)


@pytest.fixture(scope="module")
def scene():
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)) * 60 + 120


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    normalisation = {"mean": 120.0, "std": 60.0}
    return create_model("mlla_test", "unet", num_classes=3, in_channels=3, normalisation=normalisation).eval()


def by_windows(network, scene, **how):
    shape = tuple(scene.shape[-2:])
    bands = list(window_logits(TorchEngine(network), reader(scene), shape, WINDOW, **how))
    assert [top for top, _ in bands] == [top for top, _ in bands_along(150, 64, how.get("overlap", 0.5))]
    return torch.cat([logits for _, logits in bands], dim=1)


class Counting(nn.Module):
    """Pixel-wise logits; counts the windows it receives."""

    def __init__(self):
        super().__init__()
        self.windows = 0

    def forward(self, x):
        self.windows += len(x)
        return torch.cat((x[:, :1], -x[:, :1]), dim=1)


@pytest.mark.parametrize(
    ("size", "window", "overlap", "starts"),
    [
        (100, 40, 0.5, [0, 20, 40, 60]),
        (101, 40, 0.5, [0, 20, 40, 60, 61]),
        (40, 40, 0.5, [0]),
        (41, 40, 0.0, [0, 1]),
        (80, 40, 0.0, [0, 40]),
    ],
)
def test_windows_cover_the_image_and_stay_in_it(size, window, overlap, starts):
    assert window_starts(size, window, overlap) == starts
    assert bands_along(size, window, overlap) == list(zip(starts, [*starts[1:], size], strict=True))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_equals_monai_in_memory(network, scene, overlap):
    with torch.inference_mode():
        expected = sliding_window_inference(scene[None], WINDOW, 3, network, overlap=overlap, mode="gaussian")[0]
    found = by_windows(network, scene, overlap=overlap, batch_size=3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert torch.equal(found.argmax(0), expected.argmax(0))


@pytest.mark.parametrize("columns", [(0, 100), (100, 213), (97, 98), (0, 213)])
def test_stripes_and_later_bands_are_parts_of_the_whole(network, scene, columns):
    whole = by_windows(network, scene, blend="cosine")
    found = by_windows(network, scene, blend="cosine", columns=columns)
    torch.testing.assert_close(found, whole[:, :, columns[0] : columns[1]], atol=1e-5, rtol=0)
    bands = list(window_logits(TorchEngine(network), reader(scene), SHAPE, WINDOW, blend="cosine", columns=columns))
    for first in range(len(bands)):
        rest = list(
            window_logits(
                TorchEngine(network), reader(scene), SHAPE, WINDOW, blend="cosine", columns=columns, first=first
            )
        )
        assert [top for top, _ in rest] == [top for top, _ in bands[first:]]
        for (_, again), (_, once) in zip(rest, bands[first:], strict=True):
            assert torch.equal(again, once)  # to the last bit: a map that goes on is the same file


def test_every_window_is_seen_once_and_none_without_data():
    network = Counting()
    scene = torch.zeros(1, *SHAPE)
    by_windows(network, scene)
    assert network.windows == len(window_starts(150, 64, 0.5)) * len(window_starts(213, 96, 0.5)) == 4 * 4
    network = Counting()
    scene[:, 64:] = torch.nan
    by_windows(network, scene)
    assert network.windows == 2 * 4  # those that begin above row 64


def test_batches_are_the_same_from_wherever_one_begins():
    class Sizes(Counting):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    scene = torch.zeros(1, *SHAPE)
    scene[:, :, :100] = torch.nan  # the first window of each row has no data
    found = []
    for first in (0, 2):
        sizes = []
        bands = window_logits(TorchEngine(Sizes()), reader(scene), SHAPE, WINDOW, batch_size=2, first=first)
        assert len(list(bands)) == 4 - first
        found.append(sizes)
    assert found == [[2, 1] * 4, [2, 1] * 3]


def test_gaps_are_filled_with_the_mean_of_the_window():
    scene = torch.full((1, *SHAPE), 7.0)
    scene[:, 10:20] = torch.nan
    found = by_windows(Counting(), scene)
    torch.testing.assert_close(found[0], torch.full(SHAPE, 7.0))


@pytest.mark.parametrize("blend", sorted(BLENDS))
def test_weights_are_symmetric_positive_and_largest_in_the_middle(blend):
    weights = torch.from_numpy(blend_weights((40, 64), blend))
    assert weights.shape == (40, 64)
    torch.testing.assert_close(weights, weights.flip(0, 1))
    assert weights.min() == pytest.approx(1e-3)
    assert weights.max() == pytest.approx(1, abs=0.01)
    assert weights.argmax() in (19 * 64 + 31, 19 * 64 + 32, 20 * 64 + 31, 20 * 64 + 32)


def test_cosine_weights_of_neighbours_add_up_to_one():
    middle = torch.from_numpy(blend_weights((64, 65), "cosine"))[:, 32]
    torch.testing.assert_close(middle[4:28] + middle[36:60], torch.ones(24))  # beside the least weights


def test_unknown_blend_is_named():
    with pytest.raises(InputError, match=r"Unknown blend 'gauss'\. Did you mean gaussian\?"):
        blend_weights((8, 8), "gauss")


@pytest.mark.parametrize(
    ("shape", "grid", "window", "part", "size"),
    [
        ((1000, 800), (1000, 800), (256, 128), (256, 128), (256, 128)),
        ((1000, 800), (500, 400), (256, 256), (512, 512), (256, 256)),  # seen at half the resolution
        ((1000, 800), (500, 400), (900, 100), (1000, 200), (500, 100)),
        ((20, 30), (20, 30), (64, 64), (20, 30), (20, 30)),
    ],
)
def test_windows_on_the_grid_of_the_network(shape, grid, window, part, size):
    assert seen_by_network(shape, grid, window) == (part, size)

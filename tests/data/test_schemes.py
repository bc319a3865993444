"""Normalisation by the names of channels, as nnU-Net does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlla_seg.data.dataspec import DataSpec, Normalisation
from mlla_seg.data.normalisation import normalise, window_tensor
from mlla_seg.data.schemes import normalisation_of, scheme_of
from mlla_seg.errors import InputError
from mlla_seg.models.segmenter import Normalise

VALUES = np.random.default_rng(0).normal(100, 20, (2, 5000)).astype(np.float32)


@pytest.mark.parametrize(
    ("channel", "scheme"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("noNorm", "nonorm"),
        ("NONORM", "nonorm"),
        ("rescale_to_0_1", "rescale_to_0_1"),
        ("RGB_to_0_1", "rgb_to_0_1"),
        ("zscore", "zscore"),
        ("T1", "zscore"),
        ("CT in HU", "zscore"),
    ],
)
def test_names_select_schemes_in_any_case(channel, scheme):
    assert scheme_of(channel) == scheme


def test_each_channel_has_its_own_scheme():
    found = normalisation_of({"CT": "ct", "PET": "zscore"}, VALUES)
    low, high = np.percentile(VALUES[0], (0.5, 99.5))
    assert found.windows[0] == pytest.approx((low, high))
    assert found.windows[1] is None
    assert found.mean == pytest.approx((VALUES[0].mean(), 0))
    assert found.std == pytest.approx((VALUES[0].std(), 1))
    assert found.per_case == (None, "zscore")
    assert "PET: own mean and standard deviation of each case" in found.in_words(["CT", "PET"])


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("nonorm", Normalisation()),
        ("rgb_to_0_1", Normalisation(std=255.0)),
        ("zscore", Normalisation(per_case=True)),
        ("rescale_to_0_1", Normalisation(per_case=("rescale_to_0_1",))),
    ],
)
def test_one_channel_needs_no_lists(scheme, expected):
    assert normalisation_of({"a": scheme}, VALUES) == expected


def test_values_that_are_no_bytes_are_refused():
    with pytest.raises(InputError, match=r"channel red has values from .* to 3264, but rgb_to_0_1 expects bytes"):
        normalisation_of({"red": "rgb_to_0_1"}, np.array([[0, 3264]], np.float32))


@pytest.mark.parametrize("context", [0, 1])
def test_the_network_clips_each_channel_to_its_own_window(context):
    normalisation = normalisation_of({"CT": "ct", "noNorm": "nonorm"}, VALUES)
    spec = DataSpec.from_dict({"channels": ["CT", "noNorm"], "classes": ["a", "b"], "context": context})
    arguments = normalisation.for_network(context)
    image = torch.tensor([-1e6, 1e6]).repeat(1, spec.in_channels, 2, 1)
    network = Normalise(spec.in_channels, **arguments)
    found = network(image)
    low, high = normalisation.windows[0]
    expected = (torch.tensor([low, high]) - normalisation.mean[0]) / normalisation.std[0]
    for k in range(0, spec.in_channels, 2):
        torch.testing.assert_close(found[0, k, 0], expected.float())
        torch.testing.assert_close(found[0, k + 1], image[0, k + 1])
    assert torch.isfinite(network.window).all()
    mean, std = (torch.tensor(arguments[key]) for key in ("mean", "std"))
    again = normalise(image, mean, std, window_tensor(arguments["window"]), clips=True)
    torch.testing.assert_close(again, found)

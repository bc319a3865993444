"""Volumes by networks of three axes: MONAI's sliding window, one band of slices at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn
from torch.nn import functional as F

from mlla_seg.data.slices import View
from mlla_seg.inference.cases import TorchEngine, predict_case
from mlla_seg.inference.steps import case_logits
from mlla_seg.runtime.predictor import ArrayEngine

PATCH = (8, 12, 10)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 6, 3, padding=1), nn.GELU(), nn.Conv3d(6, 3, 3, padding=1)).eval()


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def logits(network, case, view, **how):
    return torch.cat(list(case_logits(TorchEngine(network), case, view, **how)))


@pytest.mark.parametrize("shape", [(21, 25, 19), (8, 12, 10), (5, 30, 7), (1, 1, 1)])
@pytest.mark.parametrize("batch_size", [1, 30])
def test_equals_monai_in_memory(network, shape, batch_size):
    case = noise(shape[0], 2, *shape[1:])
    found = logits(network, case, View(patch_size=PATCH), batch_size=batch_size)
    window = [min(n, size) for n, size in zip(shape, PATCH, strict=True)]
    with torch.inference_mode():
        volume = case.swapaxes(0, 1)[None]
        expected = sliding_window_inference(volume, window, 1, network, overlap=0.5, mode="gaussian")
    torch.testing.assert_close(found, expected[0].swapaxes(0, 1), rtol=1e-4, atol=1e-5)


def test_the_network_sees_the_resampled_volume_and_logits_come_back():
    """The steps that training takes as well: linear between slices, cubic within them."""
    case, spacing = noise(9, 1, 14, 12), (2.0, 1.0, 1.5)
    view = View(spacing_mm=(1.0, 2.0, 1.5), patch_size=(40, 40, 40))
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.cat((x, -x), dim=1)

    found = logits(Watching(), case, view, spacing_mm=spacing)
    between = F.interpolate(case.swapaxes(0, 1)[None], (18, 14, 12), mode="trilinear", align_corners=False)[0, 0]
    expected = F.interpolate(between[:, None], (7, 12), mode="bicubic", align_corners=False, antialias=True)
    torch.testing.assert_close(seen[0][0, 0], expected[:, 0])
    back = F.interpolate(expected[None, None, :, 0], (9, 14, 12), mode="trilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(found[:, 0], back)


def test_slices_are_read_and_released_one_band_at_a_time(network):
    case, read = noise(60, 2, 12, 10), []

    class Lazy:
        """A volume that notes the slices taken from it."""

        shape = case.shape

        def __len__(self):
            return len(case)

        def __getitem__(self, index):
            read.append(int(np.max(index)))
            return case[index]

    blocks = case_logits(TorchEngine(network), Lazy(), View(patch_size=PATCH), batch_size=4)
    first = next(blocks)
    assert max(read) == PATCH[0] - 1
    torch.testing.assert_close(torch.cat([first, *blocks]), logits(network, case, View(patch_size=PATCH)))


def test_gaps_cases_and_labels(network):
    """Cases are standardised as a whole, gaps take the mean of their slice, labels are those of the logits."""
    case = noise(9, 2, 13, 11) * 40 + 100
    case[2, 0, :4] = float("nan")
    view = View(patch_size=PATCH, per_case=True)
    labels = predict_case(network, case, view)
    values = case.numpy()
    mean, std = (f(values, axis=(0, 2, 3), keepdims=True) for f in (np.nanmean, np.nanstd))
    normal = (values - mean) / std
    filled = torch.from_numpy(np.where(np.isnan(normal), np.nanmean(normal, axis=(2, 3), keepdims=True), normal))
    assert torch.equal(labels, logits(network, filled, View(patch_size=PATCH)).argmax(1).byte())
    assert labels.unique().numel() == 3


def test_arrays_give_the_same_without_torch(network):
    """The runtime of exported networks takes the same steps in NumPy."""
    case, spacing = noise(9, 2, 14, 12).numpy(), (2.0, 1.0, 1.5)
    view = View(spacing_mm=(1.0, 1.2, 1.5), patch_size=PATCH)

    @torch.inference_mode()
    def run(images):
        return network(torch.from_numpy(images)).numpy()

    found = np.concatenate(list(case_logits(ArrayEngine(run), case, view, spacing)))
    expected = logits(network, torch.from_numpy(case), view, spacing_mm=spacing).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

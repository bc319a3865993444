"""The TransUNet protocol against its steps written out with scipy and medpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from medpy.metric import binary as medpy
from scipy.ndimage import zoom
from torch import nn

from mlla_seg.data.slices import View
from mlla_seg.evaluation.transunet_protocol import transunet_labels, transunet_scores


def published_scores(prediction, truth):
    """Scores of one class of one volume by the papers' script."""
    if prediction.sum() > 0 and truth.sum() > 0:
        return medpy.dc(prediction, truth), medpy.hd95(prediction, truth)
    if prediction.sum() > 0 and truth.sum() == 0:
        return 1, 0
    return 0, 0


class Bands(nn.Module):
    """Three classes by pixel value."""

    def forward(self, x):
        return torch.cat((-x.abs(), -(x - 1).abs(), -(x - 2).abs()), dim=1)


@pytest.mark.parametrize("shape", [(5, 50, 70), (1, 512, 300), (3, 224, 224)])
def test_labels_are_those_of_the_published_steps(shape):
    image = np.random.default_rng(0).normal(1, 1, (shape[0], 1, *shape[1:])).astype(np.float32)
    expected = []
    for piece in image[:, 0]:
        height, width = piece.shape
        resized = piece if piece.shape == (224, 224) else zoom(piece, (224 / height, 224 / width), order=3)
        with torch.no_grad():
            out = Bands()(torch.from_numpy(resized)[None, None]).softmax(1).argmax(1)[0].numpy()
        expected.append(out if piece.shape == (224, 224) else zoom(out, (height / 224, width / 224), order=0))
    labels = transunet_labels(Bands(), torch.from_numpy(image), View(), batch_size=2)
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("shape", [(4, 20, 24), (1, 20, 24)])
def test_scores_are_those_of_the_published_script(shape):
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, shape).repeat(3, axis=1).repeat(3, axis=2)
    prediction = np.where(rng.random(truth.shape) < 0.1, rng.integers(0, 4, truth.shape), truth)
    prediction[prediction == 3], truth[truth == 2] = 0, 0  # class 3 is missed, class 2 invented, class 4 absent
    scores = transunet_scores(torch.from_numpy(prediction), torch.from_numpy(truth), 5)
    assert scores[0].isnan().all()
    assert scores[2].tolist() == [1, 0]
    assert scores[3].tolist() == scores[4].tolist() == [0, 0]
    for k in range(1, 5):
        assert scores[k].tolist() == pytest.approx(published_scores(prediction == k, truth == k))
    assert 0 < scores[1, 1] < 100


def test_distances_between_slices_are_voxels_too():
    truth = np.zeros((8, 12, 12), int)
    prediction = truth.copy()
    truth[:2, 3:9, 3:9], prediction[5:7, 3:9, 3:9] = 1, 1
    scores = transunet_scores(torch.from_numpy(prediction), torch.from_numpy(truth), 2)
    assert scores[1].tolist() == pytest.approx(published_scores(prediction == 1, truth == 1))
    assert scores[1, 1] == 5


def test_ignored_voxels_are_not_scored():
    truth = np.zeros((2, 8, 8), int)
    truth[:, :, 4:] = 255
    prediction = np.where(truth == 255, 1, 0)
    assert transunet_scores(torch.from_numpy(prediction), torch.from_numpy(truth), 2)[1].tolist() == [0, 0]

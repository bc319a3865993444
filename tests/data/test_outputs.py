"""Labels and probabilities of networks of regions, by every engine, against nnU-Net's rule as it stands there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mlla_seg.data import outputs
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.runtime.predictor import ArrayEngine

WRITES = [1, 3, 2]


def plain_labels(probabilities, regions_class_order):
    """``LabelManager.convert_probabilities_to_segmentation`` of nnU-Net v2, for ``(R, ...)``."""
    segmentation = np.zeros(probabilities.shape[1:], dtype=np.uint8)
    for i, c in enumerate(regions_class_order):
        segmentation[probabilities[i] > 0.5] = c
    return segmentation


class Labels(nn.Module):
    def __init__(self, writes):
        super().__init__()
        self.writes = writes

    def forward(self, x):
        return outputs.labels(x, self.writes), outputs.probabilities(x, self.writes)


@pytest.fixture
def logits():
    return 3 * torch.randn(2, 3, 13, 17, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("engine", ["torch", "numpy"])
def test_labels_follow_nnunet(logits, engine, axis):
    logits = logits.movedim(1, axis)
    probabilities = logits.double().sigmoid().numpy()
    made = TorchEngine(None, writes=WRITES) if engine == "torch" else ArrayEngine(None, WRITES)
    given = logits if engine == "torch" else logits.numpy()
    labels = made.labels(given, axis)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, plain_labels(np.moveaxis(probabilities, axis, 0), WRITES))
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    np.testing.assert_allclose(made.probabilities(given, axis), probabilities, atol=1e-6)


@pytest.mark.parametrize("writes", [None, WRITES], ids=["classes", "regions"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_graphs_give_the_same(logits, writes):
    module = Labels(writes)
    expected = module(logits)
    if writes is None:
        torch.testing.assert_close(expected, (logits.argmax(1).to(torch.uint8), logits.softmax(1)))
    for graph in (torch.jit.script(module), torch.export.export(module, (logits,)).module()):
        torch.testing.assert_close(graph(logits), expected)


@pytest.mark.parametrize("logit", [1e4, -1e4])
def test_sure_outputs_do_not_overflow(logit):
    with np.errstate(all="raise", under="ignore"):
        found = ArrayEngine(None, [1]).probabilities(np.full((1, 1, 2), logit, np.float32), 1)
    np.testing.assert_array_equal(found, float(logit > 0))

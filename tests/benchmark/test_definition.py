"""The published sequence of operations matches our implementation and is what it claims to be."""

from __future__ import annotations

import pytest
import torch

from mlla_seg import create_model
from mlla_seg.benchmark.definition import DefinitionalBlock, definitional, rotations
from mlla_seg.models.blocks import Block
from mlla_seg.models.ops import rope_table


@pytest.mark.parametrize("size", [(64, 64), (33, 70)])
def test_same_outputs_and_gradients(size):
    torch.manual_seed(0)
    network = create_model("mlla_test", num_classes=3).double()
    plain = definitional(network)
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    assert len([module for module in plain.modules() if isinstance(module, DefinitionalBlock)]) == len(blocks)
    image = torch.randn(2, 3, *size).double()
    results = []
    for one in (network, plain):
        logits = one(image)
        logits.square().mean().backward()
        results.append((logits, one.encoder.stem.conv1[0].weight.grad, one.head.weight.grad))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-6)  # published rotations are float32


def test_published_rotations_are_ours():
    turn = rotations(5, 7, 16)
    torch.testing.assert_close(torch.view_as_real(turn), rope_table([5, 7], 16).flatten(0, 1))

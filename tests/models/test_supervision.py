"""Auxiliary heads: they read the intended decoder levels and leave the network unchanged."""

from __future__ import annotations

import pytest
import torch

from mlla_seg import create_model
from mlla_seg.models.decoders import OF_BLOCKS
from mlla_seg.models.recompute import set_checkpointing
from mlla_seg.models.supervision import AuxiliaryHeads


@pytest.mark.parametrize("checkpointing", ["none", "all"])
@pytest.mark.parametrize("decoder", OF_BLOCKS)
def test_levels_at_strides_8_and_16_are_asked_for_the_classes(decoder, checkpointing):
    torch.manual_seed(0)
    network = create_model("mlla_test", decoder, num_classes=3, in_channels=1)
    names, heads = set(network.state_dict()), AuxiliaryHeads(network)
    set_checkpointing(network, checkpointing)
    with heads.watch(network) as coarser:
        network(torch.randn(2, 1, 70, 64))
    assert [tuple(part.shape) for part in coarser] == [(2, 3, 12, 8), (2, 3, 6, 4)]
    assert set(network.state_dict()) == names
    assert not any(module._forward_hooks for module in network.modules())
    coarser[1].sum().backward()
    reached = {name.split(".")[2] for name, p in network.named_parameters() if "levels" in name and p.grad is not None}
    assert reached == {"0"}
    assert all(p.grad is not None for p in heads.heads[1].parameters())
    assert all(p.grad is None for p in heads.heads[0].parameters())


def test_decoders_without_levels_are_refused():
    with pytest.raises(
        ValueError, match=r"deep_supervision applies to the decoder mlla_unet or mlla_unet_fine; .* set it to false"
    ):
        AuxiliaryHeads(create_model("mlla_test", "unet"))

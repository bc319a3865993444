"""Block designs: what surrounds the mixer, and position encodings that the block adds."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mlla_seg import create_model
from mlla_seg.errors import InputError
from mlla_seg.models.blocks import BLOCKS, MambaBlock, Stage, TransformerBlock
from mlla_seg.models.mixers import rope_for
from mlla_seg.models.recompute import set_checkpointing


def image(*size, dim=8):
    return torch.randn(2, *size, dim, generator=torch.Generator().manual_seed(0)).double()


def test_transformer_block():
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 2.0, 0.0, "lepe+cpe").double()
    x = image(4, 5)
    y = x + block.cpe1(x)
    y = y + block.out_proj(block.mixer(block.norm1(y), rope_for(y)))
    y = y + block.cpe2(y)
    y = y + block.mlp(block.norm2(y))
    torch.testing.assert_close(block(x, rope_for(x)), y)
    assert TransformerBlock(8, 2, 2.0, 0.0, "lepe").cpe1 is None


def test_mamba_block_mixes_at_twice_the_width_between_convolution_and_gate():
    torch.manual_seed(0)
    block = MambaBlock(8, 2, 4.0, 0.0, "linear_attention").double()
    assert block.mixer.num_heads == 4
    assert block.mixer.qk.in_features == 16
    assert not any("mlp" in name for name, _ in block.named_parameters())
    x = image(4, 5)
    u = block.norm1(x)
    mixed = block.mixer(mixing := F.silu(block.conv(block.in_proj(u))), rope_for(mixing))
    torch.testing.assert_close(block(x, rope_for(x)), x + block.out_proj(mixed * F.silu(block.gate_proj(u))))


def test_absolute_positions_are_added_once_per_stage():
    torch.manual_seed(0)
    plain, placed = (Stage(8, 2, [0.0, 0.0], 2.0, name).double() for name in ("identity", "identity+ape"))
    placed.load_state_dict(plain.state_dict())
    x = image(3, 4)
    positions = rope_for(x).flatten(-2).double()
    torch.testing.assert_close(placed(x), plain(x + positions))
    assert positions[0, 0].tolist() == [1.0, 0.0] * 4
    assert positions[2, 1, 0] == pytest.approx(float(torch.tensor(2.0).cos()))


@pytest.mark.parametrize("block", BLOCKS)
def test_recomputing_a_stage_changes_nothing(block):
    torch.manual_seed(0)
    network = create_model("mlla_test", mixer="linear+ape", block=block).double()
    x = torch.randn(1, 3, 32, 64).double()
    expected = network(x)
    gradients = torch.autograd.grad(expected.square().mean(), list(network.encoder.stages.parameters()))
    set_checkpointing(network, "blocks")
    y = network(x)
    torch.testing.assert_close(y, expected)
    for ours, theirs in zip(
        torch.autograd.grad(y.square().mean(), list(network.encoder.stages.parameters())), gradients, strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_of_encoder_and_decoder_has_the_design_asked_for(block):
    network = create_model("mlla_test", block=block, drop_path_rate=0.3)
    blocks = [b for stage in network.modules() if isinstance(stage, Stage) for b in stage.blocks]
    assert len(blocks) == 10
    assert {type(b) for b in blocks} == {BLOCKS[block]}
    assert max(b.drop_path_rate for b in blocks) == pytest.approx(0.3)


def test_wrong_names_are_refused():
    with pytest.raises(InputError, match=r"Unknown block 'mllla'.*mlla"):
        create_model("mlla_test", block="mllla")
    with pytest.raises(InputError, match=r"The mlla block has a CPE of its own: leave \+cpe out"):
        create_model("mlla_test", mixer="linear+cpe")
    with pytest.raises(InputError, match="block applies to MLLA blocks, which smp/resnet18 with unet lacks"):
        create_model("smp/resnet18", "unet", block="mamba")

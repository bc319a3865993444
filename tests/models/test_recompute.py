"""Activation checkpointing: the same gradients and batch norms in a fraction of the memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlla_seg import MLLAUNet, create_model
from mlla_seg.benchmark.measures import saved_bytes
from mlla_seg.errors import InputError
from mlla_seg.models import DECODERS
from mlla_seg.models.recompute import set_checkpointing


def train_step(network, image, what):
    """Logits, gradients and buffers after a training step."""
    set_checkpointing(network, what)
    torch.manual_seed(1)
    logits = network(image)
    logits.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return logits.detach(), gradients, dict(network.named_buffers())


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [*(("mlla_test", name) for name in DECODERS), ("timm/resnet10t", "unet"), ("monai/dynunet", "none")],
)
@pytest.mark.parametrize("what", ["blocks", "all"])
def test_gradients_and_batch_norms_are_the_same(encoder, decoder, what):
    if what == "blocks" and encoder != "mlla_test":
        return
    drops = {"drop_path_rate": 0.3} if encoder == "mlla_test" else {}
    states = []
    for way in ("none", what):
        torch.manual_seed(0)
        network = create_model(encoder, decoder, num_classes=3, in_channels=2, **drops).double().train()
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        image = torch.randn(3, 2, 70, 64, generator=torch.Generator().manual_seed(0)).double()
        states.append(train_step(network, image, way))
    torch.testing.assert_close(states[0], states[1], atol=1e-12, rtol=1e-10)


def test_batch_norms_count_each_image_once():
    network = create_model("mlla_test", "unet", num_classes=3, in_channels=1).train()
    train_step(network, torch.randn(2, 1, 64, 64), "all")
    counts = {int(module.num_batches_tracked) for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
    assert counts == {1}
    assert {module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}


@pytest.mark.slow
def test_the_published_network_keeps_300_bytes_per_pixel():
    torch.manual_seed(0)
    network = MLLAUNet(drop_path_rate=0.2).train()
    kept = {}
    for what in ("none", "blocks", "all"):
        set_checkpointing(network, what)
        kept[what] = saved_bytes(network, torch.randn(1, 3, 96, 128)) / (96 * 128)
    assert kept["all"] <= 300
    assert kept["all"] < 0.2 * kept["blocks"]
    assert kept["blocks"] < 0.4 * kept["none"]


def test_what_cannot_be_is_said():
    with pytest.raises(InputError, match="checkpoint_stages must be one of none, blocks, all, got 'some'"):
        set_checkpointing(create_model("mlla_test"), "some")
    with pytest.raises(InputError, match="this network has no MLLA blocks; use all or none"):
        set_checkpointing(create_model("timm/resnet10t", "unet"), "blocks")

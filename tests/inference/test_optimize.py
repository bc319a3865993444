"""Optimised networks (folded, in strips, in half precision) against the network as trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlla_seg import MLLAUNet, create_model
from mlla_seg.benchmark.measures import peak_bytes
from mlla_seg.errors import InputError
from mlla_seg.inference import optimize_strips
from mlla_seg.inference.optimize import for_inference
from mlla_seg.models import DECODERS
from mlla_seg.models.mixers import MIXERS


def trained(*args, **kwargs):
    """A network whose batch norms and position encodings are not trivial."""
    torch.manual_seed(0)
    network = create_model(*args, num_classes=3, in_channels=2, **kwargs).eval()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
    return network


@pytest.mark.parametrize("pixels", [1, 7, 50, 4096])
@pytest.mark.parametrize("size", [(1, 1), (33, 64), (96, 70)])
def test_strips_change_nothing(monkeypatch, pixels, size):
    monkeypatch.setattr(optimize_strips, "PIXELS", pixels)
    network = trained("mlla_test").double()
    image = torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        expected = network(image)
        torch.testing.assert_close(for_inference(network)(image), expected, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(network(image), expected, atol=0, rtol=0)  # the copy was one


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ["mlla_test", "timm/resnet10t"])
def test_every_decoder(monkeypatch, encoder, decoder):
    monkeypatch.setattr(optimize_strips, "PIXELS", 50)
    network = trained(encoder, decoder).double()
    image = torch.randn(2, 2, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        torch.testing.assert_close(for_inference(network)(image), network(image), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer(monkeypatch, mixer):
    monkeypatch.setattr(optimize_strips, "PIXELS", 50)
    network = trained("mlla_test", mixer=mixer).double()
    image = torch.randn(1, 2, 64, 64).double()
    with torch.inference_mode():
        torch.testing.assert_close(for_inference(network)(image), network(image), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("decoder", ["mlla_unet", "mlla_unet_fine"])
@pytest.mark.parametrize("axes", [2, 3])
def test_volumes_and_strides_per_axis(monkeypatch, decoder, axes):
    monkeypatch.setattr(optimize_strips, "PIXELS", 50)
    strides = [[1, 2, 2][-axes:], [2, 1, 2][:axes], [2] * axes, [1] * axes, [2] * axes]
    network = trained("mlla_test", decoder, dims=axes, strides=strides).double()
    image = torch.randn(2, 2, *[9, 16, 24][-axes:]).double()
    fast = for_inference(network)
    assert not [name for name, _ in fast.named_modules() if "BatchNorm" in type(fast.get_submodule(name)).__name__]
    with torch.inference_mode():
        torch.testing.assert_close(fast(image), network(image), atol=1e-9, rtol=1e-9)


def test_batch_norms_are_gone_and_the_original_is_as_before():
    network = trained("mlla_test")
    fast = for_inference(network)
    assert not [module for module in fast.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not [parameter for parameter in fast.parameters() if parameter.requires_grad]
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("decoder", ["mlla_unet", "unet"])
def test_half_precision_gives_float32_near_the_exact_logits(precision, decoder):
    network = trained("mlla_test", decoder, normalisation={"mean": 40.0, "std": 60.0})
    image = 60 * torch.randn(2, 2, 64, 96, generator=torch.Generator().manual_seed(0)) + 40
    with torch.inference_mode():
        logits, expected = for_inference(network, precision=precision)(image), network.double()(image.double())
    assert logits.dtype == torch.float32
    error = (logits - expected).norm() / expected.norm()
    assert 0 < error < (0.03 if precision == "bf16" else 0.004)


def test_unknown_precisions_are_named():
    with pytest.raises(InputError, match=r"Unknown precision 'int3'\. Known: fp32, bf16, fp16"):
        for_inference(trained("mlla_test"), precision="int3")


@pytest.mark.slow
def test_the_published_network_takes_200_bytes_per_pixel():
    torch.manual_seed(0)
    network, image = MLLAUNet().eval(), torch.randn(1, 3, 1024, 1024)
    assert peak_bytes(for_inference(network), image) / 1024**2 <= 200

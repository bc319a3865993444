"""MLLA in MONAI: ``FlexibleUNet`` with our encoders, and our segmenter in MONAI's sliding window."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import FLEXUNET_BACKBONE, FlexibleUNet, FlexUNetEncoderRegister

from mlla_seg import create_model
from mlla_seg.models.mlla import SIZES
from mlla_seg.plugins.monai import MonaiEncoder


@pytest.mark.parametrize("upsample", ["nontrainable", "deconv", "pixelshuffle"])
@pytest.mark.parametrize(("channels", "classes", "size"), [(1, 10, (64, 64)), (3, 20, (96, 64)), (8, 2, (32, 32))])
def test_flexible_unet(upsample, channels, classes, size):
    model = FlexibleUNet(channels, classes, "mlla_test", spatial_dims=2, upsample=upsample)
    logits = model(torch.randn(2, channels, *size))
    assert logits.shape == (2, classes, *size)
    logits.mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_flexible_unet_of_volumes():
    model = FlexibleUNet(1, 2, "mlla_test", spatial_dims=3)
    logits = model(torch.randn(2, 1, 32, 64, 32))
    assert logits.shape == (2, 2, 32, 64, 32)
    logits.mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", SIZES)
def test_every_size_gives_the_channels_it_is_registered_with(name):
    with torch.device("meta"):
        model = FlexibleUNet(3, 2, name).eval()
        maps = model.encoder(torch.zeros(1, 3, 64, 64))
    assert tuple(f.shape[1] for f in maps) == FLEXUNET_BACKBONE.register_dict[name]["feature_channel"]
    assert [64 // f.shape[2] for f in maps] == [2, 4, 8, 16, 32]


def test_one_network_does_not_change_the_next():
    FlexibleUNet(5, 2, "mlla_test")
    assert FlexibleUNet(1, 2, "mlla_test").encoder.mlla.stem.conv1[0].in_channels == 1
    first, second = MonaiEncoder.get_encoder_parameters(), MonaiEncoder.get_encoder_parameters()
    assert all(a is not b for a, b in zip(first, second, strict=True))


def test_registers_by_its_dotted_path_too():
    register = FlexUNetEncoderRegister()
    register.register_class("mlla_seg.plugins.monai.MonaiEncoder")
    assert set(register.register_dict) == set(SIZES)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_scripts():
    model = FlexibleUNet(1, 2, "mlla_test").eval()
    x = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="download nothing"):
        FlexibleUNet(1, 2, "mlla_test", pretrained=True)


def test_our_segmenter_in_the_sliding_window():
    torch.manual_seed(0)
    segmenter = create_model("mlla_test", num_classes=3, in_channels=1).eval()
    image = torch.randn(1, 1, 64, 150)
    with torch.no_grad():
        logits = sliding_window_inference(image, (64, 64), 2, segmenter, overlap=0.5, mode="gaussian")
        whole = sliding_window_inference(image[..., :64], (64, 64), 2, segmenter)
        expected = segmenter(image[..., :64])
    assert logits.shape == (1, 3, 64, 150)
    torch.testing.assert_close(whole, expected)

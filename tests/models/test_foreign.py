"""Encoders of timm and smp by name, with every decoder of ours."""

from __future__ import annotations

import pytest
import torch

from mlla_seg import create_model, load_pretrained
from mlla_seg.models import DECODERS
from mlla_seg.models.foreign import ForeignEncoder

# Names, and whether they have a map at stride 2 and can be dilated.
ENCODERS = {
    "timm/resnet10t": (True, True),
    "timm/convnext_atto": (False, True),
    "timm/swin_s3_tiny_224": (False, False),
    "smp/resnet18": (True, True),
    "smp/mit_b0": (False, True),
    "smp/efficientnet-b0": (True, True),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_decoder_takes_encoders_of_other_libraries(encoder, decoder):
    torch.manual_seed(0)
    has_stride_2, dilates = ENCODERS[encoder]
    if decoder == "unetplusplus" and not has_stride_2:
        with pytest.raises(ValueError, match="a map at stride 2, which this encoder does not have"):
            create_model(encoder, decoder)
    elif decoder == "deeplabv3plus" and not dilates:
        with pytest.raises(ValueError, match=f"{encoder} cannot be an encoder dilated to stride 16 here"):
            create_model(encoder, decoder)
    else:
        model = create_model(encoder, decoder, num_classes=3, in_channels=4)
        logits = model(torch.rand(2, 4, 67, 71))
        assert logits.shape == (2, 3, 67, 71)
        logits.square().mean().backward()
        assert all(p.grad is not None for p in model.decoder.parameters())


def test_maps_have_the_strides_and_channels_it_says():
    encoder = ForeignEncoder("smp/resnet18", in_channels=1)
    assert encoder.training
    maps = encoder(torch.rand(1, 1, 64, 96))
    assert [f.shape[1] for f in maps] == encoder.out_channels == [64, 64, 128, 256, 512]
    assert [tuple(f.shape[2:]) for f in maps] == [(64 // s, 96 // s) for s in (2, 4, 8, 16, 32)]


def test_networks_that_are_no_pyramid_are_refused():
    with pytest.raises(ValueError, match="timm/vit_tiny_patch16_224 cannot be an encoder here: Unsupported"):
        create_model("timm/vit_tiny_patch16_224", "unet")


def test_windows_that_fit_no_multiple_of_32_are_named():
    with pytest.raises(ValueError, match=r"here: height \(16\) must be divisible by window \(7\).*tried 64 x 96"):
        create_model("timm/maxvit_tiny_rw_224", "unet")


def test_names_without_their_library_are_hinted_at():
    with pytest.raises(ValueError, match=r"Unknown encoder 'resnet34'; .* are named timm/resnet34 or smp/resnet34"):
        create_model("resnet34", "unet")


def test_stochastic_depth_belongs_to_mlla_blocks():
    model = create_model("smp/resnet18", "mlla_unet", drop_path_rate=0.3)
    assert model.decoder.levels[0].stage.blocks[0].drop_path_rate == pytest.approx(0.3)
    with pytest.raises(ValueError, match="drop_path_rate belongs to MLLA blocks; smp/resnet18 with unet has none"):
        create_model("smp/resnet18", "unet", drop_path_rate=0.3)


def test_weights_of_the_same_network_load():
    torch.manual_seed(0)
    trained, model = (create_model("smp/resnet18", "mlla_unet", num_classes=k) for k in (2, 3))
    report = load_pretrained(model, trained.state_dict())
    assert report.missing == ["head.weight"]
    torch.testing.assert_close(model.encoder.state_dict(), trained.encoder.state_dict())

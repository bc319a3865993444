"""Encoders of timm and smp by name, with every decoder."""

from __future__ import annotations

import re

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders._utils import patch_first_conv
from timm.models import adapt_input_conv

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
        with pytest.raises(ValueError, match="a feature map at stride 2, which this encoder does not have"):
            create_model(encoder, decoder)
    elif decoder == "deeplabv3plus" and not dilates:
        with pytest.raises(ValueError, match=f"{encoder} cannot be used as an encoder dilated to stride 16: "):
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
    with pytest.raises(ValueError, match="timm/vit_tiny_patch16_224 cannot be used as an encoder: Unsupported"):
        create_model("timm/vit_tiny_patch16_224", "unet")


def test_windows_that_fit_no_multiple_of_32_are_named():
    with pytest.raises(ValueError, match=r"encoder: height \(16\) must be divisible by window \(7\).*tried 64 x 96"):
        create_model("timm/maxvit_tiny_rw_224", "unet")


def test_names_without_their_library_are_hinted_at():
    with pytest.raises(ValueError, match=r"Unknown encoder 'resnet34'; use timm/resnet34 or smp/resnet34"):
        create_model("resnet34", "unet")


def test_stochastic_depth_belongs_to_mlla_blocks():
    model = create_model("smp/resnet18", "mlla_unet", drop_path_rate=0.3)
    assert model.decoder.levels[0].stage.blocks[0].drop_path_rate == pytest.approx(0.3)
    with pytest.raises(ValueError, match="drop_path_rate applies to MLLA blocks, which smp/resnet18 with unet lacks"):
        create_model("smp/resnet18", "unet", drop_path_rate=0.3)


LIBRARIES = [
    "timm/resnet10t",
    "timm/convnext_atto",
    "timm/efficientnet_lite0",
    "timm/swin_s3_tiny_224",
    "timm/pvt_v2_b0",
]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("encoder", ["smp/resnet18", "timm/resnet18", *LIBRARIES])
def test_files_of_the_library_itself_load_completely(encoder, suffix, tmp_path):
    """resnet18 has the same parameter names in timm, torchvision and smp."""
    torch.manual_seed(0)
    classifier = timm.create_model(encoder.split("/")[1])
    for buffer in classifier.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    if suffix == ".pth":
        torch.save({"state_dict": classifier.state_dict()}, tmp_path / "weights.pth")
    else:
        save_file(classifier.state_dict(), tmp_path / "weights.safetensors")
    model = create_model(encoder, "fpn", num_classes=3).eval()
    report = load_pretrained(model, tmp_path / f"weights{suffix}")
    assert not report.adapted
    assert {name.split(".")[0] for name in report.missing} == {"decoder", "head"}
    head = classifier.default_cfg["classifier"]
    assert {f"{head}.weight", f"{head}.bias"} <= set(report.left_out)
    given = {name for name in classifier.state_dict() if not name.endswith("num_batches_tracked")}
    assert len(report.loaded) + len(report.left_out) == len(given)
    if "swin" not in encoder:  # whose windows are others at this size, and whose maps are laid out otherwise
        image = torch.rand(1, 3, 64, 64)
        expected = classifier.eval().forward_intermediates(image, intermediates_only=True)[-1]
        torch.testing.assert_close(model.encoder(image)[-1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("encoder", ["smp/resnet18", "timm/resnet18", "timm/convnext_atto"])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_first_convolution_is_adapted_as_smp_and_timm_do(encoder, channels):
    torch.manual_seed(0)
    library, name = encoder.split("/")
    classifier = timm.create_model(name)
    model = create_model(encoder, "fpn", in_channels=channels)
    report = load_pretrained(model, classifier.state_dict())
    (adapted,) = report.adapted
    weight = classifier.get_parameter(f"{classifier.default_cfg['first_conv']}.weight")
    if library == "smp":
        conv = torch.nn.Conv2d(3, 64, 7, bias=False)
        conv.weight.data.copy_(weight)
        patch_first_conv(torch.nn.Sequential(conv), channels, pretrained=True)
        expected = conv.weight
    else:
        expected = adapt_input_conv(channels, weight)
    torch.testing.assert_close(model.state_dict()[adapted], expected.detach())


def test_whatever_holds_the_encoder_gives_its_weights(tmp_path):
    torch.manual_seed(0)
    theirs = smp.Unet("resnet18", encoder_weights=None)
    ours = create_model("timm/resnet18", "unet", num_classes=2)
    lightning = {f"network.{name}": value for name, value in ours.state_dict().items()}
    for source, expected in ((theirs.state_dict(), theirs.encoder), (lightning, ours.encoder.encoder.model)):
        model = create_model("smp/resnet18", "unet", num_classes=2)
        report = load_pretrained(model, source)
        torch.testing.assert_close(model.encoder.encoder.layer4[1].conv2.weight, expected.layer4[1].conv2.weight)
        assert bool(report.missing) == (source is not lightning)


def test_first_releases_are_renamed_as_timm_does():
    torch.manual_seed(0)
    classifier = timm.create_model("convnext_atto")
    renames = [
        (r"stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^stem\.", "downsample_layers.0."),
        (r"\.blocks\.", "."),
        ("conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.(norm)", r"\1"),
        (r"^head\.fc", "head"),
    ]
    released = {}
    for name, value in classifier.state_dict().items():
        for ours, theirs in renames:
            name = re.sub(ours, theirs, name)
        released[name] = value
    model = create_model("timm/convnext_atto", "fpn").eval()
    report = load_pretrained(model, released)
    assert {name.split(".")[0] for name in report.missing} == {"decoder", "head"}
    assert len(report.left_out) == 4
    image = torch.rand(1, 3, 64, 64)
    expected = classifier.eval().forward_intermediates(image, intermediates_only=True)[-1]
    torch.testing.assert_close(model.encoder(image)[-1], expected)
    with pytest.raises(ValueError, match="lacks 70 of the 70 weights of timm/resnet10t"):
        load_pretrained(create_model("timm/resnet10t", "fpn"), released)


def test_weights_of_other_networks_are_refused():
    small, large = (timm.create_model(name).state_dict() for name in ("resnet18", "resnet34"))
    with pytest.raises(
        ValueError, match=r"state dict has 8 blocks that timm/resnet18 lacks, such as layer1\.2: .*size"
    ):
        load_pretrained(create_model("timm/resnet18", "fpn"), large)
    with pytest.raises(
        ValueError, match=r"lacks 80 of the 180 weights of smp/resnet34, such as layer1\.2\.conv1\.weight: it"
    ):
        load_pretrained(create_model("smp/resnet34", "fpn"), small)
    with pytest.raises(ValueError, match=r"of another size"):
        load_pretrained(create_model("timm/convnext_femto", "fpn"), timm.create_model("convnext_atto").state_dict())
    with pytest.raises(ValueError, match="No encoder parameter of the state dict fits Segmenter"):
        load_pretrained(create_model("mlla_test"), small)


def test_weights_of_the_same_network_load():
    torch.manual_seed(0)
    trained, model = (create_model("smp/resnet18", "mlla_unet", num_classes=k) for k in (2, 3))
    report = load_pretrained(model, trained.state_dict())
    assert report.missing == ["head.weight"]
    torch.testing.assert_close(model.encoder.state_dict(), trained.encoder.state_dict())

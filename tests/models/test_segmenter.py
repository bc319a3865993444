"""Complete networks: MLLA-UNet as published, any encoder with any decoder, images of any size in raw units."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mlla_seg import MLLAUNet, create_model, load_pretrained
from mlla_seg.models import DECODERS
from mlla_seg.models.mlla import MapNorm
from mlla_seg.models.segmenter import Normalise

SMALL = dict(embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))


@torch.no_grad()
def test_mlla_unet_equals_the_recording(golden):
    tensors = load_file(golden / "mlla_unet.safetensors")
    model = MLLAUNet(**SMALL, decoder_depths=(2, 1, 1), num_classes=9).eval()
    report = load_pretrained(model, {k[3:]: v for k, v in tensors.items() if k.startswith("sd.")})
    assert not (report.adapted or report.left_out or report.missing)
    torch.testing.assert_close(model(tensors["input"]), tensors["logits"], atol=1e-4, rtol=0)
    features = model.encoder(tensors["input"])
    for i in range(3):
        torch.testing.assert_close(features[i + 1].flatten(2).mT, tensors[f"skip{i}"], atol=1e-4, rtol=0)
    bottleneck = model.decoder.norm(features[4].movedim(1, -1)).flatten(1, 2)
    torch.testing.assert_close(bottleneck, tensors["bottleneck"], atol=1e-4, rtol=0)


def test_published_mlla_unet_loads_completely(golden):
    entry = json.loads((golden / "mlla_unet_official_state_dict.json").read_text())["mlla_unet_tiny"]
    with torch.device("meta"):
        model = MLLAUNet()
    assert sum(p.numel() for p in model.parameters()) == 28_505_312
    model.to_empty(device="cpu")
    report = load_pretrained(model, {k: torch.ones(s) for k, s in entry["state_dict"].items()})
    assert not (report.adapted or report.left_out or report.missing)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("size", "channels"), [((64, 64), 1), ((67, 71), 4), ((5, 40), 3)])
def test_every_decoder_takes_any_size_and_trains(decoder, size, channels):
    torch.manual_seed(0)
    model = create_model("mlla_test", decoder, num_classes=5, in_channels=channels)
    logits = model(torch.randn(2, channels, *size))
    assert logits.shape == (2, 5, *size)
    logits.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("decoder", "normed"), [("mlla_unet", []), ("unet", [0, 1, 2, 3]), ("fpn", [0, 1, 2, 3]), ("deeplabv3plus", [0, 3])]
)
def test_maps_that_decoders_of_smp_read_have_a_norm_each(decoder, normed):
    encoder = create_model("mlla_test", decoder).encoder
    assert [i for i, norm in enumerate(encoder.norms) if isinstance(norm, MapNorm)] == normed
    maps = encoder(torch.randn(2, 3, 64, 64))
    for i in normed:
        assert maps[i + 1].mean(dim=1).abs().max() < 1e-5
    without = create_model("mlla_test", decoder, norm_outputs=False).encoder
    assert not [norm for norm in without.norms if isinstance(norm, MapNorm)]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize(
    "decoder", [name for name in DECODERS if name != "unetplusplus"]
)  # whose decoder, of smp, does not script
def test_every_decoder_scripts_with_its_normalisation(decoder):
    torch.manual_seed(0)
    model = create_model("mlla_test", decoder, num_classes=3, in_channels=2, normalisation={"window": [-1, 1]}).eval()
    scripted = torch.jit.script(model)
    for size in ((64, 64), (67, 71)):
        x = torch.randn(2, 2, *size)
        torch.testing.assert_close(scripted(x), model(x))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 31)])
def test_mlla_unet_takes_images_of_at_least_one_pixel(size):
    model = MLLAUNet(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), num_classes=2, in_channels=1).eval()
    assert model(torch.randn(1, 1, *size)).shape == (1, 2, *size)


def test_what_lies_beyond_the_crop_does_not_matter_for_multiples_of_32():
    model = create_model("mlla_test", num_classes=3, in_channels=1).eval()
    x = torch.randn(1, 1, 64, 32)
    repeated = torch.cat((x, x[..., -1:]), dim=-1)  # one more column is padded to 64 by repeating it
    padded = torch.nn.functional.pad(x, (0, 32, 0, 0), mode="replicate")
    torch.testing.assert_close(model(repeated), model(padded)[..., :33], atol=1e-5, rtol=1e-5)


def test_unknown_names_suggest_near_ones():
    with pytest.raises(ValueError, match="Did you mean mlla_tiny"):
        create_model("mlla_tyny")
    with pytest.raises(ValueError, match=r"Unknown decoder 'unett'\. Did you mean unet"):
        create_model("mlla_test", "unett")
    with pytest.raises(ValueError, match="decoder_depths applies to the decoder mlla_unet"):
        create_model("mlla_test", "unet", decoder_depths=(1, 1, 1))
    with pytest.raises(ValueError, match=r"Unknown encoder of timm 'rsnet18'\. Did you mean resnet18 .* in all\)"):
        create_model("timm/rsnet18", "unet")
    with pytest.raises(ValueError, match=r"Unknown library of encoders 'tim'\. Did you mean timm"):
        create_model("tim/resnet18")
    with pytest.raises(ValueError, match="images of 1 channels, got 3"):
        create_model("mlla_test", in_channels=1)(torch.randn(1, 3, 32, 32))


def test_normalisation_clips_then_standardises():
    normalise = Normalise(1, mean=75, std=100, window=(-125, 275))
    x = torch.tensor([-1000.0, -125.0, 75.0, 275.0, 3000.0]).view(1, 1, 1, 5)
    torch.testing.assert_close(normalise(x).flatten(), torch.tensor([-2.0, -2.0, 0.0, 2.0, 2.0]))


def test_normalisation_per_image_is_blind_to_units():
    normalise = Normalise(2, per_image=True)
    x = torch.rand(3, 2, 8, 9)
    y = normalise(x)
    torch.testing.assert_close(y.mean((-2, -1)), torch.zeros(3, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalise(x * 300_000 + 7), y, atol=1e-3, rtol=1e-3)
    assert torch.isfinite(normalise(torch.full((1, 2, 4, 4), 5.0))).all()


@pytest.mark.parametrize("number", [np.float32(2), np.int64(2), 2])
def test_normalisation_takes_any_real_number(number):
    assert Normalise(3, mean=number, std=number).mean.tolist() == [2, 2, 2]


def test_normalisation_travels_with_the_weights():
    trained = create_model("mlla_test", num_classes=2, in_channels=2, normalisation={"mean": [1, 2], "std": [3, 4]})
    fresh = create_model("mlla_test", num_classes=2, in_channels=2)
    fresh.load_state_dict(trained.state_dict())
    assert fresh.normalise.mean.tolist() == [1, 2]
    assert fresh.normalise.std.tolist() == [3, 4]


def test_wrong_normalisation_is_refused():
    with pytest.raises(ValueError, match="3 values for mean but images have 2 channels"):
        Normalise(2, mean=[1, 2, 3])
    with pytest.raises(ValueError, match="above zero"):
        Normalise(1, std=0)

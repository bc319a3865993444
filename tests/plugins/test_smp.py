"""MLLA in segmentation_models_pytorch: smp's requirements for its own encoders and models, applied to ours."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

import mlla_seg.plugins.smp
from mlla_seg import MLLA, load_pretrained
from mlla_seg.models.mlla import SIZES

ARCHITECTURES = [
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "PAN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
    "Segformer",
]


def encoder(**options):
    return smp.encoders.get_encoder("mlla_test", **{"in_channels": 3, "depth": 5, "weights": None, **options})


def without_gradient(model):
    return [name for name, p in model.named_parameters() if p.grad is None]


def norms_before_the_last(model):
    last = f".norms.{len(model.mlla.norms) - 1}."
    return {name for name, _ in model.named_parameters() if ".norms." in name and last not in name}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_encoder_gives_maps_of_the_strides_and_channels_it_says(depth, channels):
    model = encoder(depth=depth, in_channels=channels)
    x = torch.rand(2, channels, 64, 64)
    features = model(x)
    assert [f.shape[1] for f in features] == model.out_channels
    assert [64 // f.shape[2] for f in features] == [2**i for i in range(depth + 1)]
    assert torch.equal(features[0], x)
    features[-1].sum().backward()
    assert set(without_gradient(model)) <= norms_before_the_last(model), "a stage is built that is not used"


@pytest.mark.parametrize("stride", [8, 16])
def test_encoder_dilates(stride):
    features = encoder(output_stride=stride).eval()(torch.rand(1, 3, 64, 96))
    assert [64 // f.shape[2] for f in features] == [min(2**i, stride) for i in range(6)]
    assert [96 // f.shape[3] for f in features] == [min(2**i, stride) for i in range(6)]


@pytest.mark.parametrize("depth", [0, 6])
def test_impossible_depth_is_refused(depth):
    with pytest.raises(ValueError, match=f"1 to 5, got {depth}"):
        encoder(depth=depth)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_encoder_scripts_and_exports():
    model = encoder().eval()
    x = torch.rand(1, 3, 64, 64)
    expected = model(x)
    scripted = torch.jit.script(model)(x)
    exported = torch.export.export(model, (x,), strict=True).module()(x)
    for a, b, c in zip(expected, scripted, exported, strict=True):
        torch.testing.assert_close(b, a)
        torch.testing.assert_close(c, a)


@pytest.mark.parametrize("name", SIZES)
def test_every_size_gives_real_maps_and_a_gradient_to_every_parameter(name):
    model = smp.encoders.get_encoder(name, weights=None)
    features = model(torch.rand(2, 3, 64, 64))
    assert [f.shape[1] for f in features] == model.out_channels
    sum(f.mean() for f in features).backward()
    assert not without_gradient(model)


def build(name, **options):
    torch.manual_seed(0)
    return smp.create_model(name, "mlla_test", encoder_weights=None, **options)


def side(name):
    return 256 if name == "PAN" else 64  # its pyramid pools the last map three times


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_trains_with_any_channels(name):
    model = build(name, in_channels=4, classes=7)
    logits = model(torch.rand(2, 4, side(name), side(name)))
    assert logits.shape == (2, 7, side(name), side(name))
    logits.mean().backward()
    unused = {name.rsplit(".", 1)[0].removeprefix("encoder.mlla.") for name in without_gradient(model)}
    assert unused == {f"norms.{i}" for i in UNREAD.get(name, ())}


UNREAD = {"PSPNet": (0,), "DeepLabV3": (0, 1, 2), "DeepLabV3Plus": (1, 2)}  # maps that their decoders do not read


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("depth", [3, 4])
def test_every_architecture_takes_a_shallower_encoder(name, depth):
    options = {}
    if name in ("Unet", "UnetPlusPlus", "MAnet"):
        options["decoder_channels"] = (32, 16, 8, 4)[:depth]
    model = build(name, encoder_depth=depth, in_channels=1, classes=7, **options).eval()
    assert len(model.encoder.mlla.stages) == depth - 1
    with torch.no_grad():
        logits = model(torch.rand(1, 1, side(name), side(name)))
    assert logits.shape[:2] == (1, 7)  # smp's FPN and PSPNet upsample by a fixed factor, whatever the depth


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_unet_takes_sizes_that_are_no_multiple_of_32(depth):  # the others of smp refuse them themselves
    model = build("Unet", encoder_depth=depth, decoder_channels=(32, 16, 8, 8, 8)[:depth]).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 67, 71)).shape == (1, 1, 67, 71)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_classifies_beside(name):
    aux = {"pooling": "avg", "classes": 10, "dropout": 0.5, "activation": "sigmoid"}
    with torch.no_grad():
        _, labels = build(name, aux_params=aux).eval()(torch.rand(1, 3, side(name), side(name)))
    assert labels.shape == (1, 10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_exports_and_scripts(name):
    torch.compiler.reset()
    model = build(name).eval()
    x = torch.rand(1, 3, side(name), side(name))
    with torch.no_grad():
        expected = model(x)
        strict = name in ("Unet", "DeepLabV3Plus")  # which traces Python, and takes as long as all others together
        torch.testing.assert_close(torch.export.export(model, (x,), strict=strict).module()(x), expected)
        if name != "UnetPlusPlus":  # whose decoder, of smp, does not script
            torch.testing.assert_close(torch.jit.script(model)(x), expected)


@pytest.mark.slow
def test_a_model_compiles_whole_with_dynamic_sizes():
    torch.compiler.reset()
    model = build("Unet").eval()  # all do; the encoder, traced each time, takes the time
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")  # what smp asks of encoders
    with torch.no_grad():
        for x in (torch.rand(1, 3, 64, 64), torch.rand(2, 3, 96, 128)):
            torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pretrained_folder_round_trip(name, tmp_path):
    model = build(name, in_channels=2, classes=3).eval()
    model.save_pretrained(tmp_path, dataset="test_dataset", metrics={"iou": 0.99})
    again = smp.from_pretrained(tmp_path).eval()
    x = torch.rand(1, 2, side(name), side(name))
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x))
    assert "test_dataset" in (tmp_path / "README.md").read_text()


def test_released_weights_give_the_features_of_the_classifier():
    size = {key: SIZES["mlla_test"][key] for key in ("embed_dim", "depths", "num_heads")}
    classifier = MLLA(**size).eval()
    model = smp.Unet("mlla_test", encoder_weights=None).eval()
    missing = [name for name in load_pretrained(model, classifier.state_dict()).missing if ".mlla." in name]
    assert missing == [f"encoder.mlla.norms.{i}.{kind}" for i in range(4) for kind in ("weight", "bias")]
    x = torch.rand(1, 3, 64, 64)
    for i, (ours, theirs) in enumerate(zip(model.encoder(x)[1:], classifier.encoder(x), strict=True)):
        if i > 0:
            theirs = torch.nn.functional.layer_norm(theirs.movedim(1, -1), theirs.shape[1:2]).movedim(-1, 1)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_networks_saved_with_version_0_1_compute_what_they_did(tmp_path, capsys):
    saved = build("Unet").eval()
    before, x = saved.encoder.mlla, torch.rand(1, 3, 64, 64)
    before.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
    saved.save_pretrained(tmp_path)
    torch.testing.assert_close(smp.from_pretrained(tmp_path).eval()(x), saved(x))
    assert "weights are from version 0.1, without a LayerNorm on each feature map" in capsys.readouterr().err
    load_pretrained(build("Unet"), saved.state_dict())  # what is missing stays
    assert not capsys.readouterr().err


def test_registering_again_is_harmless():
    mlla_seg.plugins.smp.register()
    assert smp.Unet("mlla_test", encoder_weights=None)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: smp.Unet("mlla_test"),
        lambda: smp.create_model("fpn", "mlla_test"),
        lambda: smp.encoders.get_preprocessing_fn("mlla_test"),
    ],
)
def test_weights_that_smp_would_download_are_refused_with_what_to_do_instead(ask):
    advice = r"set encoder_weights=None \(smp's default is 'imagenet'; .*load_pretrained\(model, \"mlla_t.pth\"\)"
    with pytest.raises(ValueError, match=advice):
        ask()

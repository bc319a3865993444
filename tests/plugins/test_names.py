"""``load_state_dict`` of every plug-in takes the names of the authors, timm, smp, MONAI and its own."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from monai.networks.nets import FlexibleUNet
from safetensors.torch import load_file

import mlla_seg.plugins.monai
import mlla_seg.plugins.smp
import mlla_seg.plugins.timm  # noqa: F401
from mlla_seg import create_model
from mlla_seg.models.mlla import MLLAEncoder
from mlla_seg.plugins.monai import MonaiEncoder
from mlla_seg.plugins.smp import SmpEncoder

NAME = "mlla_test"
AUTHORS = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}  # of the recorded networks
SOURCES = {
    "timm": lambda: timm.create_model(NAME, num_classes=5),
    "timm features": lambda: timm.create_model(NAME, features_only=True),
    "smp": lambda: smp.encoders.get_encoder(NAME, weights=None),
    "smp network": lambda: smp.Unet(NAME, encoder_weights=None),
    "smp through timm": lambda: smp.Unet(f"tu-{NAME}", encoder_weights=None),
    "monai": lambda: FlexibleUNet(3, 2, NAME),
    "mlla_seg": lambda: create_model(NAME),
}
PLUGINS = {
    "timm": lambda **size: timm.create_model(NAME, **{"num_classes": 5, **size}),
    "timm features": lambda **size: timm.create_model(NAME, features_only=True, **size),
    "smp": lambda **size: SmpEncoder(**size) if size else smp.encoders.get_encoder(NAME, weights=None),
    "monai": lambda **size: MonaiEncoder(**size) if size else FlexibleUNet(3, 2, NAME).encoder,
}


def encoder_of(model):
    (encoder,) = (module for module in model.modules() if isinstance(module, MLLAEncoder))
    return encoder


def state_without_norms(encoder):
    return {name: value for name, value in encoder.state_dict().items() if not name.startswith("norms.")}


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize("source", SOURCES)
def test_weights_of_each_library_load(plugin, source):
    torch.manual_seed(0)
    theirs, ours = SOURCES[source](), PLUGINS[plugin]()
    encoder_of(theirs)(torch.randn(2, 3, 64, 64))  # counts batches
    strict = plugin != "timm" or source == "timm"  # others lack the head of a classifier
    result = ours.load_state_dict(theirs.state_dict(), strict=strict)
    assert all(name.startswith(("norm.", "head.")) for name in result.missing_keys)
    assert not result.unexpected_keys
    torch.testing.assert_close(state_without_norms(encoder_of(ours)), state_without_norms(encoder_of(theirs)))
    if not strict:
        with pytest.raises(RuntimeError, match=r'Missing key.*"norm.weight", "norm.bias", "head.weight", "head.bias"'):
            ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_authors_files_load(plugin, golden, capsys):
    tensors = load_file(golden / "mlla_classifier.safetensors")
    theirs = {name[3:]: value for name, value in tensors.items() if name.startswith("sd.")}
    ours = PLUGINS[plugin](**AUTHORS, **({"num_classes": 10} if plugin == "timm" else {}))
    assert not any(ours.load_state_dict(theirs))
    first = encoder_of(ours).stem.conv1[0].weight
    torch.testing.assert_close(first, theirs["patch_embed.conv1.conv.weight"], check_device=False)
    said = capsys.readouterr().err
    if plugin == "timm":
        assert not said
    else:
        assert "has no part for 4 of 192 weights, such as head.bias: left out." in said
        assert "8 norms of feature maps, such as" in said


def test_a_network_of_smp_takes_the_names_of_its_encoder(capsys):
    source = smp.Unet(NAME, encoder_weights=None).state_dict()
    named = {name.replace("encoder.mlla.", "encoder.model.encoder."): value for name, value in source.items()}
    assert named.keys() != source.keys()
    model = smp.Unet(NAME, encoder_weights=None)
    model.load_state_dict(named)
    torch.testing.assert_close(model.state_dict(), source)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("plugin", PLUGINS)
def test_weights_of_another_network_are_said_in_a_line(plugin, capsys):
    model = PLUGINS[plugin]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    line = f"note: no weight fits {type(model).__name__}: {len(other)} are given, such as conv1.weight."
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(other)
    assert line in capsys.readouterr().err
    model.load_state_dict(other, strict=False)
    assert line in capsys.readouterr().err
    torch.testing.assert_close(model.state_dict(), before)


@pytest.mark.parametrize("plugin", ["timm features", "smp", "monai"])
def test_weights_of_another_size_are_an_error(plugin):
    wider = timm.create_model("mlla_nano").state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*blocks.1"):
        PLUGINS[plugin]().load_state_dict(wider, strict=True)


def test_own_names_are_compared_strictly():
    for build in PLUGINS.values():
        state = build().state_dict()
        last = next(name for name in reversed(state) if "stages" in name)
        with pytest.raises(RuntimeError, match=r"Unexpected key.*stages.*more"):
            build().load_state_dict({**state, last.replace("blocks.0", "blocks.0.more"): state[last]})
        del state[last]
        with pytest.raises(RuntimeError, match=rf'Missing key.*"{last}"'):
            build().load_state_dict(state)


def test_stages_that_a_shallower_encoder_lacks_are_said(capsys):
    model = smp.encoders.get_encoder(NAME, depth=3, weights=None)
    weights = timm.create_model(NAME)
    model.load_state_dict(weights.state_dict())
    torch.testing.assert_close(model.mlla.stages[1].state_dict(), weights.encoder.stages[1].state_dict())
    assert "SmpEncoder has no part for" in capsys.readouterr().err

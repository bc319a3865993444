"""MLLA in timm: timm's requirements for its own models, applied to ours."""

from __future__ import annotations

import importlib
import math
import warnings

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file
from timm.layers import Format, get_notrace_functions, get_notrace_modules
from timm.models import FeatureInfo
from timm.optim import param_groups_layer_decay
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import mlla_seg.plugins.timm
from mlla_seg import MLLA, load_pretrained
from mlla_seg.models.mlla import SIZES

SMALL = ["mlla_test", "mlla_nano", "mlla_tiny"]


def test_every_size_is_listed():
    assert timm.list_models("mlla_*") == sorted(SIZES)
    assert not timm.list_models("mlla_*", pretrained=True)  # nothing is downloaded


@pytest.mark.parametrize("name", SIZES)
def test_forward(name):
    model = timm.create_model(name).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, *model.default_cfg["input_size"]))
    assert logits.shape == (1, 1000)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", SIZES)
def test_every_parameter_gets_a_gradient(name):
    model = timm.create_model(name, num_classes=42).train()
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 42)
    logits.mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", SMALL)
def test_default_cfg_says_what_the_model_does(name):
    model = timm.create_model(name).eval()
    state, cfg = model.state_dict(), model.default_cfg
    x = torch.randn(1, *cfg["input_size"])
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.shape == (1, model.num_features, *cfg["pool_size"])
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (1, model.head_hidden_size)
        torch.testing.assert_close(model.get_classifier()(pooled), model(x))
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), pooled)
        model.reset_classifier(0, "")
        torch.testing.assert_close(model(x), features)
        model.reset_classifier(7, "max")
        assert model(x).shape == (1, model.num_classes) == (1, 7)
        headless = timm.create_model(name, num_classes=0, global_pool="").eval()
        assert headless(x).shape == features.shape
        assert timm.create_model(name, num_classes=0).eval()(x).shape == pooled.shape
    assert f"{cfg['classifier']}.weight" in state
    assert f"{cfg['first_conv']}.weight" in state


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_head_is_as_wide_as_what_any_pooling_gives(pool):
    x = torch.randn(1, 3, 64, 64)
    model, other = timm.create_model("mlla_test", global_pool=pool).eval(), timm.create_model("mlla_test").eval()
    other.reset_classifier(5, pool)
    for classifier, classes in ((model, 1000), (other, 5)):
        pooled = classifier.forward_head(classifier.forward_features(x), pre_logits=True)
        assert pooled.shape == (1, classifier.head_hidden_size)
        assert classifier.get_classifier()(pooled).shape == (1, classes)


@pytest.mark.parametrize("features_only", [False, True])
def test_device_and_dtype_are_as_asked(features_only):
    model = timm.create_model("mlla_test", features_only=features_only, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}
    real = timm.create_model("mlla_test", num_classes=2, device="cpu", dtype=torch.float64)
    assert real(torch.randn(2, 3, 64, 64, dtype=torch.float64)).dtype == torch.float64


def test_channels_and_rates_are_given_through():
    model = timm.create_model("mlla_tiny", in_chans=1, drop_rate=0.3, drop_path_rate=0.4)
    assert model.encoder.stem.conv1[0].in_channels == 1
    assert model.head_drop.p == 0.3
    assert model.encoder.stages[3].blocks[-1].drop_path_rate == pytest.approx(0.4)
    assert timm.create_model("mlla_tiny").encoder.stages[3].blocks[-1].drop_path_rate == pytest.approx(0.2)


def test_features_only_with_any_choice_of_maps():
    torch.manual_seed(0)
    x = torch.randn(2, 1, 67, 71)
    model = timm.create_model("mlla_test", features_only=True, in_chans=1).eval()
    maps = model(x)
    assert model.output_fmt == Format.NCHW
    assert model.feature_info.channels() == [f.shape[1] for f in maps] == [4, 8, 16, 32, 64]
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32]
    assert [f.shape[2] for f in maps] == [math.ceil(67 / r) for r in model.feature_info.reduction()]
    some = timm.create_model("mlla_test", features_only=True, in_chans=1, out_indices=(-4, 2)).eval()
    assert not load_pretrained(some, model.state_dict()).missing
    for ours, expected in zip(some(x), (maps[1], maps[2]), strict=True):
        torch.testing.assert_close(ours, expected)
    assert len(some.encoder.stages) == 2  # what no map needs is gone
    first = timm.create_model("mlla_test", features_only=True, out_indices=(0,))
    first(torch.randn(1, 3, 64, 64))[0].sum().backward()
    assert not [name for name, p in first.named_parameters() if p.grad is None]


def test_maps_have_norms_that_none_is_without_gradient_and_that_released_weights_leave_alone(tmp_path):
    model = timm.create_model("mlla_test", features_only=True, out_indices=(1, 3))
    assert sorted(name for name in model.state_dict() if ".norms." in name) == [
        f"encoder.norms.{i}.{kind}" for i in (0, 2) for kind in ("bias", "weight")
    ]
    sum(f.sum() for f in model(torch.randn(1, 3, 64, 64))).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    plain = timm.create_model("mlla_test", features_only=True, norm_outputs=False)
    assert not [name for name in plain.state_dict() if ".norms." in name]
    torch.save(timm.create_model("mlla_test").state_dict(), tmp_path / "weights.pth")
    file = {"file": str(tmp_path / "weights.pth")}
    dense = timm.create_model("mlla_test", features_only=True, pretrained=True, pretrained_cfg_overlay=file)
    assert len([name for name in dense.state_dict() if ".norms." in name]) == 8
    assert not [name for name in timm.create_model("mlla_test").state_dict() if ".norms." in name]


@pytest.mark.parametrize("how", ["hook", "fx"])
def test_maps_by_hooks_and_by_fx_are_the_same(how):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 67, 71)
    for indices in ((0, 1, 2, 3, 4), (0, 3)):
        usual = timm.create_model("mlla_test", features_only=True, out_indices=indices).eval()
        other = timm.create_model("mlla_test", features_only=True, out_indices=indices, feature_cls=how).eval()
        load_pretrained(other, usual.state_dict())
        assert other.feature_info.channels() == [f.shape[1] for f in other(x)]
        for ours, expected in zip(other(x), usual(x), strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("stride", [8, 16])
def test_features_are_dilated_where_asked(stride):
    model = timm.create_model("mlla_test", features_only=True, output_stride=stride).eval()
    assert model.feature_info.reduction() == [min(2**i, stride) for i in range(1, 6)]
    assert [64 // f.shape[2] for f in model(torch.randn(1, 3, 64, 64))] == model.feature_info.reduction()


def test_forward_intermediates():
    torch.manual_seed(0)
    model = timm.create_model("mlla_test").eval()
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    x = torch.randn(1, 3, 96, 96)
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    assert [f.shape[1] for f in maps] == info.channels()
    assert [96 // f.shape[2] for f in maps] == info.reduction()
    last_two = model.forward_intermediates(x, indices=2, norm=True, intermediates_only=True)
    torch.testing.assert_close(last_two[0], maps[3])
    torch.testing.assert_close(last_two[1], final)
    early, (second,) = model.forward_intermediates(x, indices=[1], stop_early=True)
    torch.testing.assert_close(second, maps[1])
    torch.testing.assert_close(early, maps[1])
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("options", [{}, {"features_only": True}, {"features_only": True, "out_indices": (0, 2)}])
def test_scripts_and_exports(options):
    torch.manual_seed(0)
    model = timm.create_model("mlla_test", **options).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)
    torch.testing.assert_close(torch.jit.script(model)(x), expected)
    exported = torch.export.export(model, (x,), strict=not options).module()(x)
    torch.testing.assert_close(exported if torch.is_tensor(exported) else list(exported), expected)


def test_traces_with_fx_for_training_and_evaluation():
    torch.manual_seed(0)
    model = timm.create_model("mlla_test", drop_path_rate=0.3, num_classes=5)
    how = {"leaf_modules": list(get_notrace_modules()), "autowrap_functions": list(get_notrace_functions())}
    train, evaluation = get_graph_node_names(model, tracer_kwargs=how)
    traced = create_feature_extractor(
        model, train_return_nodes=[train[-1]], eval_return_nodes=[evaluation[-1]], tracer_kwargs=how
    )
    for training, size in ((True, (64, 64)), (False, (64, 64)), (False, (67, 71))):
        model.train(training)
        traced.train(training)
        x = torch.randn(2, 3, *size)
        torch.manual_seed(1)
        expected = model(x)
        torch.manual_seed(1)
        torch.testing.assert_close(next(iter(traced(x).values())), expected)


def test_checkpointing_groups_and_decay():
    model = timm.create_model("mlla_test", num_classes=3)
    blocks = [block for stage in model.encoder.stages for block in stage.blocks]
    calls = []
    for block in blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    for enable, times in ((True, 2), (False, 1)):
        model.set_grad_checkpointing(enable)
        calls.clear()
        model(torch.randn(2, 3, 64, 64)).sum().backward()
        assert len(calls) == times * len(blocks)
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    timm.create_model("mlla_test", features_only=True).set_grad_checkpointing()
    assert model.no_weight_decay() == set()
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    order = [
        model.encoder.stem.conv1[0].weight,
        model.encoder.stages[0].blocks[0].mlp[0].weight,
        model.encoder.downsamples[2].expand.weight,
        model.encoder.stages[3].blocks[0].mlp[0].weight,
        model.head.weight,
    ]
    scales = [scale[id(p)] for p in order]
    assert scales == sorted(scales)
    assert len(set(scales)) == len(scales)


def test_released_weights_in_timms_own_way(tmp_path):
    size = {key: SIZES["mlla_test"][key] for key in ("embed_dim", "depths", "num_heads")}
    classifier = MLLA(**size).eval()
    torch.save({"model": classifier.state_dict()}, tmp_path / "weights.pth")
    file = {"file": str(tmp_path / "weights.pth")}
    model = timm.create_model("mlla_test", pretrained=True, pretrained_cfg_overlay=file).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x), classifier(x), atol=1e-5, rtol=0)
    grey = timm.create_model("mlla_test", pretrained=True, pretrained_cfg_overlay=file, in_chans=1, num_classes=2)
    expected = classifier.encoder.stem.conv1[0].weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(grey.encoder.stem.conv1[0].weight, expected)
    with pytest.raises(RuntimeError, match="No pretrained weights exist for mlla_test"):
        timm.create_model("mlla_test", pretrained=True)


def test_the_authors_file_loads_by_its_path(golden, tmp_path):
    tensors = load_file(golden / "mlla_classifier.safetensors")
    theirs = {name[3:]: value for name, value in tensors.items() if name.startswith("sd.")}
    torch.save({"model": theirs}, tmp_path / "theirs.pth")
    size = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "num_classes": 10}
    model = timm.create_model("mlla_test", checkpoint_path=tmp_path / "theirs.pth", **size).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(tensors["input"]), tensors["logits"], atol=1e-4, rtol=0)
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    again = timm.create_model("mlla_test", checkpoint_path=tmp_path / "ours.pth", **size)
    torch.testing.assert_close(again.state_dict(), model.state_dict())


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_smp_builds_on_it(depth):
    options = {"encoder_weights": None, "encoder_depth": depth, "decoder_channels": (64, 32, 16, 8, 8)[:depth]}
    model = smp.Unet("tu-mlla_test", in_channels=4, classes=7, **options)
    logits = model(torch.randn(1, 4, 64, 64))
    assert logits.shape == (1, 7, 64, 64)
    logits.mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_registering_again_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(mlla_seg.plugins.timm)
    assert timm.create_model("mlla_test", num_classes=1)(torch.zeros(2, 3, 32, 32)).shape == (2, 1)

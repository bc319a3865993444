"""Encoder and classifier: equal to the authors' networks, for any size, precision and execution mode."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from mlla_seg import MLLA, MLLAEncoder, load_pretrained
from mlla_seg.models import ENCODERS
from mlla_seg.models.mixers import MIXERS
from mlla_seg.models.mlla import SIZES
from mlla_seg.models.recompute import set_checkpointing

SMALL = dict(embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))  # as recorded
TINIEST = dict(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
PARAMETERS = {"mlla_tiny": 24_392_200, "mlla_small": 43_015_048, "mlla_base": 95_983_960}


def recorded(path):
    tensors = load_file(path)
    return {k: v for k, v in tensors.items() if not k.startswith("sd.")}, {
        k.removeprefix("sd."): v for k, v in tensors.items() if k.startswith("sd.")
    }


@torch.no_grad()
def test_classifier_equals_the_recording(golden):
    tensors, state_dict = recorded(golden / "mlla_classifier.safetensors")
    model = MLLA(**SMALL, num_classes=10).eval()
    report = load_pretrained(model, state_dict)
    assert not (report.adapted or report.left_out or report.missing)
    torch.testing.assert_close(model(tensors["input"]), tensors["logits"], atol=1e-4, rtol=0)
    for i, feature in enumerate(model.encoder(tensors["input"])[1:]):
        tokens, expected = feature.flatten(2).transpose(1, 2), tensors[f"stage{i}"]
        # Values grow from 22 to 257. The recording, in float32, is itself 1.4e-4 from the network in float64 in the
        # last stage: 5e-7 of its largest value.
        torch.testing.assert_close(tokens, expected, atol=1e-6 * expected.abs().max().item(), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", range(4))
def test_backbone_equals_the_recording_at_odd_and_non_square_sizes(golden, size):
    tensors, state_dict = recorded(golden / "mlla_backbone.safetensors")
    model = MLLAEncoder(**SMALL, norm_outputs=True).eval()
    load_pretrained(model, state_dict)
    for i, feature in enumerate(model(tensors[f"input{size}"])[1:]):
        torch.testing.assert_close(feature, tensors[f"feature{size}.{i}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PARAMETERS)
def test_released_classifiers_load_completely(golden, name):
    entry = json.loads((golden / "mlla_official_state_dicts.json").read_text())[name]
    size = {key: SIZES[name][key] for key in ("embed_dim", "depths", "num_heads")}
    with torch.device("meta"):
        model = MLLA(**size)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    model.to_empty(device="cpu")
    weights = {key: torch.ones(shape) for key, shape in entry["state_dict"].items()}
    report = load_pretrained(model, weights)
    assert len(report.loaded) == len([key for key in weights if not key.endswith(("rotations", "batches_tracked"))])
    assert not (report.adapted or report.left_out or report.missing)


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (32, 64), (67, 71)])
def test_encoder_gives_five_real_maps_for_any_size(size):
    model = MLLAEncoder(in_channels=2, **TINIEST)
    features = model(torch.randn(2, 2, *size))
    expected = [(-(-size[0] // 2**i), -(-size[1] // 2**i)) for i in range(1, 6)]
    assert [tuple(f.shape[2:]) for f in features] == expected
    assert [f.shape[1] for f in features] == model.out_channels == [4, 8, 16, 32, 64]
    sum(f.sum() for f in features).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_stage_inputs_are_what_each_stage_is_given():
    torch.manual_seed(0)
    given, returned = MLLAEncoder(**TINIEST, stage_inputs=True).eval(), MLLAEncoder(**TINIEST).eval()
    returned.load_state_dict(given.state_dict())
    x = torch.randn(1, 3, 64, 64)
    inputs, outputs = given(x), returned(x)
    torch.testing.assert_close(inputs[1], given.stem(x)[1])
    torch.testing.assert_close(inputs[2], given.downsamples[1](outputs[1]))
    torch.testing.assert_close(inputs[4], outputs[4])


@pytest.mark.parametrize("name", ENCODERS)
def test_every_size_builds_and_its_stochastic_depth_grows_to_the_published_rate(name):
    with torch.device("meta"):
        model = ENCODERS[name](in_channels=1)
    rates = [block.drop_path_rate for stage in model.stages for block in stage.blocks]
    model.eval()
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(SIZES[name]["drop_path_rate"])
    assert model(torch.empty(1, 1, 64, 64, device="meta"))[-1].shape == (1, model.out_channels[-1], 2, 2)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_trains(mixer):
    model = MLLAEncoder(**TINIEST, mixer=mixer)
    model(torch.randn(2, 3, 40, 24))[-1].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.stages.parameters())


def test_attention_sees_the_whole_image_and_identity_does_not():
    def reach(mixer):
        torch.manual_seed(0)
        stage = MLLAEncoder(**TINIEST, mixer=mixer).eval().stages[0]
        x = torch.randn(1, 16, 16, 8, requires_grad=True)
        stage(x)[0, 0, 0].sum().backward()
        return (x.grad[0, -1, -1] != 0).any().item()

    assert reach("linear_attention")
    assert not reach("identity")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_encoder_runs_in_half_precision(dtype):
    torch.manual_seed(0)
    model = MLLAEncoder(**TINIEST).eval()
    x = torch.randn(1, 3, 64, 48)
    exact = model(x)[-1]
    half = model.to(dtype)(x.to(dtype))[-1]
    assert half.dtype == dtype
    assert (half.float() - exact).norm() / exact.norm() < 0.05


@pytest.mark.slow
def test_encoder_compiles_without_graph_breaks():
    torch.manual_seed(0)
    model = MLLAEncoder(**TINIEST).eval()
    x = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True)(x)
    for ours, theirs in zip(compiled, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_nothing_made_under_inference_mode_breaks_training():
    model = MLLAEncoder(**TINIEST)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        model(x)
    model(x)[-1].sum().backward()


def test_no_table_is_kept_for_any_size_device_or_precision():
    model = MLLAEncoder(**TINIEST).eval()

    def held():
        return {
            (name, key)
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, torch.Tensor) or (isinstance(value, dict | list) and value and key[0] != "_")
        }

    before = held()
    for size in range(32, 200, 32):
        with torch.inference_mode():
            model(torch.randn(1, 3, size, size))
    assert held() == before
    image = torch.randn(1, 3, 64, 96)
    expected = model(image)[-1]
    double = model.to(torch.float64)(image.double())[-1]
    torch.testing.assert_close(double.float(), expected, atol=1e-4, rtol=1e-4)
    meta = model.to("meta")(image.to("meta", torch.float64))[-1]
    assert meta.shape == expected.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [0.0, -12.0, 50.0])
def test_training_under_autocast_stays_finite(dtype, bias):
    torch.manual_seed(0)
    model = MLLAEncoder(**TINIEST)
    for module in model.modules():
        if isinstance(module, MIXERS["linear_attention"]):
            torch.nn.init.constant_(module.qk.bias, bias)  # of queries and keys before ELU + 1
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    image = torch.randn(2, 3, 96, 64)
    for _ in range(8):
        with torch.autocast("cpu", dtype):
            loss = (model(image)[-1].float() - 1).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert losses[-1] < losses[0]


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="up to four stages"):
        MLLAEncoder(depths=(1, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="cannot be split into 3 heads"):
        MLLAEncoder(embed_dim=8, num_heads=(3, 3, 3, 3))
    with pytest.raises(ValueError, match="Did you mean linear_attention"):
        MLLAEncoder(**TINIEST, mixer="linear_atention")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("stages", [0, 1, 2, 3, 4])
def test_encoder_scripts_with_any_number_of_stages(stages):
    torch.manual_seed(0)
    size = {key: value[:stages] if key != "embed_dim" else value for key, value in TINIEST.items()}
    model = MLLAEncoder(**size).eval()
    x = torch.randn(1, 3, 67, 71)
    features = model(x)
    assert len(features) == stages + 1
    for ours, theirs in zip(torch.jit.script(model)(x), features, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_one_strict_export_takes_any_size():
    torch.manual_seed(0)
    model = MLLAEncoder(**TINIEST).eval()
    any_size = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    program = torch.export.export(model, (torch.randn(2, 3, 64, 64),), dynamic_shapes=(any_size,), strict=True)
    for size in ((97, 71), (100, 100), (33, 160)):  # torch takes no axis that is 1 in the last map for a dynamic one
        x = torch.randn(3, 3, *size)
        for ours, theirs in zip(program.module()(x), model(x), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore::torch.jit.TracerWarning")
def test_traced_graph_holds_nothing_that_the_older_onnx_exporter_does_not_know():
    graph = torch.jit.trace(MLLAEncoder(**TINIEST).eval(), torch.randn(1, 3, 64, 64)).inlined_graph
    assert "aten::mT" not in str(graph)


@pytest.mark.parametrize("maps", [1, 2, 4])
def test_fewer_maps_are_the_finest_and_later_stages_do_not_run(maps):
    torch.manual_seed(0)
    model = MLLAEncoder(**TINIEST).eval()
    x = torch.randn(1, 3, 64, 96)
    expected = model(x)[:maps]
    for stage in model.stages[maps - 1 :]:
        stage.forward = None  # calling it would fail
    for ours, theirs in zip(model(x, maps), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("stride", [8, 16])
def test_dilated_encoder_keeps_the_resolution_and_the_reach(stride):
    torch.manual_seed(0)
    dilated, plain = MLLAEncoder(**TINIEST, output_stride=stride).eval(), MLLAEncoder(**TINIEST).eval()
    plain.load_state_dict(dilated.state_dict())
    x = torch.randn(1, 3, 64, 96)
    features, expected = dilated(x), plain(x)
    assert [64 // f.shape[2] for f in features] == [min(2**i, stride) for i in range(1, 6)]
    for i in range(3 if stride == 8 else 4):  # up to there nothing is dilated
        torch.testing.assert_close(features[i], expected[i])
    conv = dilated.stages[3].blocks[0].mixer.lepe
    assert conv.dilation == conv.padding == (32 // stride, 32 // stride)
    assert conv.stride == (1, 1)
    with pytest.raises(ValueError, match="8, 16 or 32, got 4"):
        MLLAEncoder(output_stride=4)


def test_an_encoder_without_stages_gives_the_same_first_map():
    whole = MLLAEncoder(**TINIEST).eval()
    stem = MLLAEncoder(embed_dim=8, depths=(), num_heads=()).eval()
    stem.load_state_dict({name: value for name, value in whole.state_dict().items() if name in stem.state_dict()})
    image = torch.randn(1, 3, 32, 48)
    (half,) = stem(image)
    assert half.min() < 0  # no ReLU of a further convolution
    torch.testing.assert_close(half, whole(image)[0])


def test_checkpointed_blocks_give_the_same_gradients_and_keep_less():
    def train(enable):
        torch.manual_seed(0)
        model = MLLAEncoder(**TINIEST, drop_path_rate=0.5)
        set_checkpointing(model, "blocks" if enable else "none")
        kept = 0

        def count(tensor):
            nonlocal kept
            kept += tensor.nelement()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(torch.randn(2, 3, 64, 64))[-1].square().mean()
        loss.backward()
        return kept, [p.grad for p in model.parameters()]

    kept, expected = train(False)
    less, gradients = train(True)
    assert less < 0.6 * kept
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs)

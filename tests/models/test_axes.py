"""Strides and kernels by axis, and networks of volumes: any size, any strides, one code for images and volumes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mlla_seg import MLLAEncoder, Segmenter, create_model
from mlla_seg.errors import InputError
from mlla_seg.models import ops
from mlla_seg.models.axes import kernels_of
from mlla_seg.models.blocks import BLOCKS
from mlla_seg.models.cost import macs
from mlla_seg.models.decoders import OF_BLOCKS
from mlla_seg.models.mixers import MIXERS, build_mixer, rope_for
from mlla_seg.models.recompute import set_checkpointing

TINIEST = dict(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
COARSE = [[1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 1, 1]]
OF_VOLUMES = [name for name in (*MIXERS, "linear+rope+lepe", "softmax+rope+lepe") if name != "selective_ssm"]


def test_kernels_are_flat_until_an_axis_is_halved():
    kernels = kernels_of([[1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 1, 1]])
    assert kernels == [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)]
    assert kernels_of([[1, 2, 2]] * 5) == [(3, 3, 3)] * 6  # an axis that is never halved


@pytest.mark.parametrize("strides", [None, COARSE])
@pytest.mark.parametrize("size", [(1, 1, 1), (5, 34, 19), (33, 2, 1)])
def test_encoder_gives_five_real_maps_for_any_volume(size, strides):
    model = MLLAEncoder(in_channels=2, **TINIEST, dims=3, strides=strides)
    features = model(torch.randn(2, 2, *size))
    steps = [math.prod(column[: i + 1]) for i in range(5) for column in zip(*model.strides, strict=True)]
    expected = [-(-length // step) for length, step in zip(size * 5, steps, strict=True)]
    assert [length for feature in features for length in feature.shape[2:]] == expected
    sum(f.sum() for f in features).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_along_a_coarse_axis_the_first_stage_sees_by_attention_only():
    torch.manual_seed(0)
    stem = MLLAEncoder(**TINIEST, dims=3, strides=COARSE).eval().stem
    x = torch.randn(1, 3, 5, 16, 16, requires_grad=True)
    half, quarter = stem(x)
    assert half.shape[2] == quarter.shape[2] == 5
    half[:, :, 2].sum().backward()
    assert x.grad.abs().sum(dim=(0, 1, 3, 4)).nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize("decoder", OF_BLOCKS)
@pytest.mark.parametrize("strides", [None, COARSE])
def test_decoders_of_blocks_take_volumes_of_any_size_and_train(decoder, strides):
    torch.manual_seed(0)
    normalisation = {"mean": [1.0, 2.0], "std": [2.0, 3.0], "window": [[-1, 1], None]}
    model = create_model("mlla_test", decoder, 5, 2, normalisation, dims=3, strides=strides)
    logits = model(torch.randn(2, 2, 5, 33, 17))
    assert logits.shape == (2, 5, 5, 33, 17)
    logits.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert model(torch.randn(2, 2, 1, 1, 1)).shape == (2, 5, 1, 1, 1)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("mixer", OF_VOLUMES)
def test_every_block_and_mixer_trains_on_volumes(block, mixer):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 2, 16, dtype=torch.float64)
    stage = BLOCKS[block](16, 2, 2.0, 0.0, mixer, (1, 3, 3)).double()
    y = stage(x, rope_for(x))
    y.square().mean().backward()
    assert y.shape == x.shape
    assert all(torch.isfinite(p.grad).all() for p in stage.parameters())


def written_out(block, x):
    """The MLLA block by its equations, in float64, for any number of spatial axes."""

    def convolved(conv, x):
        function = {4: F.conv2d, 5: F.conv3d}[x.ndim]
        padding = [size // 2 for size in conv.weight.shape[2:]]
        return function(x.movedim(-1, 1), conv.weight, conv.bias, 1, padding, 1, x.shape[-1]).movedim(1, -1)

    x = x + convolved(block.cpe1, x)
    u = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias)
    gate = F.silu(block.gate_proj(u))
    u = F.silu(convolved(block.conv, block.in_proj(u)))
    tokens = u.flatten(1, -2)
    q, k = block.mixer.qk(tokens).chunk(2, dim=-1)
    y = ops.linear_attention_reference(q, k, tokens, u.shape[1:-1], block.mixer.num_heads).view(u.shape)
    x = x + block.out_proj((y + convolved(block.mixer.lepe, u)) * gate)
    x = x + convolved(block.cpe2, x)
    u = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias)
    first, _, second = block.mlp
    return x + second(F.gelu(first(u)))


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (1, 1, 1), (1, 5, 2), (4, 3, 5)])
def test_block_agrees_with_its_equations_forward_and_backward(size):
    torch.manual_seed(0)
    block = BLOCKS["mlla"](16, 2, 4.0, 0.0, "linear_attention", (3,) * len(size)).double()
    results = []
    for function in (lambda x: block(x, rope_for(x).double()), lambda x: written_out(block, x)):
        x = torch.randn(2, *size, 16, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        y = function(x)
        names, parameters = zip(*block.named_parameters(), strict=True)
        gradients = torch.autograd.grad(y.square().sum(), [x, *parameters])
        results.append({"y": y} | dict(zip(("x", *names), gradients, strict=True)))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)  # RoPE's table is in float32


@torch.no_grad()
@pytest.mark.parametrize("name", OF_VOLUMES)
def test_a_volume_of_one_slice_is_mixed_as_an_image_where_positions_do_not_matter(name):
    torch.manual_seed(0)
    if name in ("linear_attention", "rala") or "rope" in name:
        return  # rotated with frequencies that depend on the number of axes
    flat, deep = build_mixer(name, 8, 2).double(), build_mixer(name, 8, 2, (1, 3, 3)).double()
    deep.load_state_dict({k: v.view(deep.state_dict()[k].shape) for k, v in flat.state_dict().items()})
    x = torch.randn(2, 5, 4, 8, dtype=torch.float64)
    torch.testing.assert_close(deep(x[:, None], rope_for(x[:, None]))[:, 0], flat(x, rope_for(x)))


def test_recomputing_changes_nothing_and_costs_are_counted():
    states = []
    for what in ("none", "all"):
        torch.manual_seed(0)
        network = create_model("mlla_test", "mlla_unet_fine", 3, 1, drop_path_rate=0.3, dims=3, strides=COARSE).double()
        set_checkpointing(network, what)
        torch.manual_seed(1)
        logits = network(torch.randn(2, 1, 4, 20, 16, generator=torch.Generator().manual_seed(0)).double())
        logits.square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        states.append((logits.detach(), gradients, dict(network.named_buffers())))
    torch.testing.assert_close(states[0], states[1], atol=1e-12, rtol=1e-10)
    conv = network.encoder.stages[0].blocks[0].conv
    assert macs(conv, torch.randn(1, 2, 3, 4, 8).double()) == 2 * 3 * 4 * 8 * 27


def test_a_network_of_volumes_is_saved_with_its_strides(tmp_path):
    network = create_model("mlla_test", "mlla_unet_fine", 3, 1, frame=(4, 32, 32), dims=3, strides=COARSE).eval()
    network.save_pretrained(tmp_path)
    volume = torch.randn(1, 1, 3, 20, 33)
    torch.testing.assert_close(Segmenter.from_pretrained(tmp_path)(volume), network(volume), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_networks_of_volumes_script():
    torch.manual_seed(0)
    network = create_model("mlla_test", "mlla_unet_fine", 3, 1, dims=3, strides=COARSE).eval()
    volume = torch.randn(1, 1, 3, 20, 33)
    torch.testing.assert_close(torch.jit.script(network)(volume), network(volume), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_one_strict_export_takes_volumes_of_any_size():
    torch.manual_seed(0)
    network = create_model("mlla_test", "mlla_unet_fine", 3, 1, dims=3, strides=COARSE).eval()
    any_size = dict.fromkeys((0, 2, 3, 4), torch.export.Dim.AUTO)
    program = torch.export.export(network, (torch.randn(2, 1, 5, 40, 48),), dynamic_shapes=(any_size,), strict=True)
    volume = torch.randn(3, 1, 9, 40, 50)
    torch.testing.assert_close(program.module()(volume), network(volume), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["monai/dynunet", "monai/segresnet"])
def test_whole_networks_of_monai_take_volumes(name):
    thrice = [[2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 1, 1], [1, 1, 1]]
    strides = thrice if name == "monai/segresnet" else [[1, 2, 2], [2, 2, 2], *[[1, 1, 1]] * 3]
    network = create_model(name, "none", num_classes=3, in_channels=1, dims=3, strides=strides).eval()
    assert network(torch.randn(1, 1, 3, 9, 16)).shape == (1, 3, 3, 9, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "selective_ssm"}, "selective_ssm visits pixels in turn and takes images only"),
        ({"mixer": "linear+forget_gate"}, r"linear\+forget_gate visits pixels in turn and takes images only"),
        ({"decoder": "unet"}, "take images with default strides only: use mlla_unet or mlla_unet_fine"),
        ({"encoder": "timm/resnet10t"}, "timm/resnet10t takes images with default strides only"),
        ({"strides": [[1, 2]]}, "strides needs 5 steps with a stride of 1 or 2 for each of 3 axes"),
        ({"strides": [[1, 2, 3]] * 5}, "strides needs 5 steps with a stride of 1 or 2"),
        ({"dims": 4}, "2 for images or 3 for volumes: got 4"),
        ({"frame": (32, 32)}, "3 spatial axes needs a frame of 3 sizes"),
        ({"encoder": "monai/segresnet", "decoder": "none", "strides": COARSE}, "halves each axis three times"),
    ],
)
def test_what_volumes_cannot_have_is_refused_in_a_line(options, message):
    with pytest.raises(InputError, match=message):
        create_model(**{"encoder": "mlla_test", "dims": 3, **options})

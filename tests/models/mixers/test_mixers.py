"""Every token mixer keeps the contract; the controls differ from MLLA's mixer in one thing each."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mlla_seg import create_model
from mlla_seg.errors import InputError
from mlla_seg.models.mixers import MIXERS, build_mixer, parse_mixer, rope_for, scanning

NAMES = [
    *MIXERS,
    *("linear+input_gate", "linear+forget_gate", "linear+shortcut", "linear-normalisation", "linear-heads"),
    *("linear+rope+lepe", "linear+rope+forget_gate", "softmax+rope+lepe"),
]
LOCAL = {"identity": 1, "lepe": 9, "lepe_matched": 9}
"""Pixels that mixers without global context see."""


def local(conv, x):
    """3 x 3 depthwise convolution of a zero-padded feature map ``(H, W, C)``, in float64."""
    height, width, _ = x.shape
    y = conv.bias.expand_as(x).clone()
    for i in range(height):
        for j in range(width):
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < height and 0 <= j + dj < width:
                        y[i, j] += conv.weight[:, 0, di + 1, dj + 1] * x[i + di, j + dj]
    return y


def gated(linear, x):
    y = x @ linear.weight.T + linear.bias
    half = x.shape[-1]
    return y[..., :half] / (1 + torch.exp(-y[..., half:]))


DEFINITIONS = {
    "identity": lambda mixer, x: x,
    "lepe": lambda mixer, x: x + local(mixer.lepe, x),
    "lepe_matched": lambda mixer, x: x + gated(mixer.glu, x) + local(mixer.lepe, x),
}  # those of the others are in test_formulas.py, and that of linear_attention in ops.py


@torch.no_grad()
@pytest.mark.parametrize("name", DEFINITIONS)
def test_controls_are_what_their_formulas_say(name):
    torch.manual_seed(0)
    mixer = MIXERS[name](8, 2).double()
    x = torch.randn(2, 4, 5, 8).double()
    expected = torch.stack([DEFINITIONS[name](mixer, image) for image in x])
    torch.testing.assert_close(mixer(x, rope_for(x)), expected, atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_attention_of_a_pixel_to_itself_alone_leaves_the_local_convolution():
    torch.manual_seed(0)
    attention, control = MIXERS["linear_attention"](8, 2).double(), MIXERS["lepe"](8, 2).double()
    control.lepe.load_state_dict(attention.lepe.state_dict())
    x = torch.randn(3, 1, 1, 8).double()  # images of one pixel
    torch.testing.assert_close(control(x, rope_for(x)), attention(x, rope_for(x)), atol=1e-5, rtol=1e-5)


def test_the_matched_control_has_exactly_the_parameters_of_attention():
    counts = {name: sum(p.numel() for p in create_model("mlla_test", mixer=name).parameters()) for name in MIXERS}
    assert counts["lepe_matched"] == counts["linear_attention"] > counts["lepe"] > counts["identity"]


@pytest.mark.parametrize("name", NAMES)
def test_all_but_the_controls_see_the_whole_image(name):
    torch.manual_seed(0)
    x = torch.randn(1, 7, 7, 8, requires_grad=True)
    y = build_mixer(name, 8, 2)(x, rope_for(x))[0, 3, 3]
    (y * torch.randn(8)).sum().backward()
    seen = (x.grad[0] != 0).any(dim=-1)
    assert seen.sum() == LOCAL.get(name, 49)
    assert seen[3, 3]


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (7, 9)])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_float64_on_any_size(name, size):
    torch.manual_seed(0)
    single = build_mixer(name, 16, 2)
    double = build_mixer(name, 16, 2).double()
    double.load_state_dict(single.state_dict())
    x = torch.randn(2, *size, 16)
    cotangent = torch.randn_like(x)
    results = []
    for mixer, image in ((single, x.clone()), (double, x.double())):
        image.requires_grad_()
        y = mixer(image, rope_for(image))
        assert y.shape == image.shape
        y.backward(cotangent.to(y.dtype))
        named = {key: value.grad for key, value in mixer.named_parameters()}
        results.append({"y": y.detach(), "dx": image.grad} | {f"d{key}": grad for key, grad in named.items()})
    single, double = results
    tolerance = 1e-5 * max(float(value.abs().max()) for value in double.values())
    for key, value in single.items():
        report = f"{key}: {{}}".format
        torch.testing.assert_close(value.double(), double[key], atol=tolerance, rtol=1e-4, msg=report)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_has_no_nan(name, dtype):
    torch.manual_seed(0)
    mixer = build_mixer(name, 16, 2)
    expected = mixer(x := 4 * torch.randn(1, 40, 40, 16), rope_for(x))
    with torch.autocast("cpu", dtype):
        cast = mixer(x, rope_for(x))
    half = mixer.to(dtype)(x.to(dtype), rope_for(x))
    for y in (cast, half):
        assert y.isfinite().all()
        assert (y.float() - expected).norm() / expected.norm() < 0.05
    if half.requires_grad:
        half.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_torchscript_computes_the_same(name):
    torch.manual_seed(0)
    mixer = build_mixer(name, 8, 2).eval()
    scripted = torch.jit.script(mixer)
    for size in ((1, 1), (4, 7), (9, 5)):
        x = torch.randn(2, *size, 8)
        torch.testing.assert_close(scripted(x, rope_for(x)), mixer(x, rope_for(x)), atol=1e-5, rtol=1e-4)


class Numbers(TorchDispatchMode):
    """Counts the numbers that operations write."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor) and not function.is_view:
                self.count += value.numel()
        return result


def cost(name, side):
    """Operations and written numbers of a forward and backward pass over side x side pixels."""
    mixer = build_mixer(name, 8, 2)
    x = torch.randn(1, side, side, 8, requires_grad=True)
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as operations, Numbers() as numbers:
        mixer(x, rope_for(x)).sum().backward()
    return operations.get_total_flops(), numbers.count


@pytest.mark.parametrize("name", NAMES)
def test_cost_is_linear_in_the_pixels_except_for_softmax(name):
    """Four times the pixels cost four times as much, or sixteen times as much in the N x N part of softmax."""
    (operations, numbers), (more_operations, more_numbers) = cost(name, 16), cost(name, 32)
    assert more_operations <= 4.01 * operations or name.startswith("softmax")
    assert more_numbers <= 4.2 * numbers or name.startswith("softmax")
    if name.startswith("softmax"):
        assert more_operations > 10 * operations
        assert more_numbers > 10 * numbers


def test_switches_in_names():
    assert parse_mixer("linear") == ("linear", {})
    assert parse_mixer("+forget_gate") == ("linear", {"forget_gate": True})
    assert parse_mixer("linear+rope-heads+ape") == ("linear", {"rope": True, "heads": False, "ape": True})
    assert parse_mixer("rala+cpe") == ("rala", {"cpe": True})
    for name, message in (
        ("lineer", "Unknown token mixer 'lineer'.*linear"),
        ("linear+heads", r"Unknown switch '\+heads' of token mixer linear. Known: .*-heads"),
        ("linear-rope", r"Unknown switch '-rope'"),
        ("softmax+forget_gate", r"Unknown switch '\+forget_gate' of token mixer softmax. Known: \+rope"),
    ):
        with pytest.raises(InputError, match=message):
            parse_mixer(name)


def test_scanning_mixers_are_named():
    assert scanning(create_model("mlla_test", mixer="selective_ssm")) == ["selective_ssm"]
    assert scanning(create_model("mlla_test", mixer="linear+forget_gate")) == ["linear"]
    assert scanning(create_model("mlla_test", mixer="linear")) == []


class Alone(torch.nn.Module):
    """A mixer with the table of the image it gets."""

    def __init__(self, name):
        super().__init__()
        self.mixer = build_mixer(name, 8, 2)

    def forward(self, x):
        return self.mixer(x, rope_for(x))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not scanning(torch.nn.ModuleList([build_mixer(name, 8, 2)]))]
)
def test_one_graph_takes_any_size(name):
    torch.manual_seed(0)
    network = Alone(name).eval()
    dim = torch.export.Dim
    sizes = {0: dim("batch", min=1), 1: dim("rows", min=1), 2: dim("columns", min=1)}
    graph = torch.export.export(network, (torch.randn(2, 4, 6, 8),), dynamic_shapes=({**sizes},)).module()
    for size in ((1, 5, 3), (3, 8, 8)):
        x = torch.randn(*size, 8)
        torch.testing.assert_close(graph(x), network(x), atol=1e-5, rtol=1e-4)

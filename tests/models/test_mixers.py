"""Token mixers against their formulas, pixel by pixel; each ablation differs from MLLA's mixer in one thing."""

from __future__ import annotations

import pytest
import torch

from mlla_seg import create_model
from mlla_seg.models.mixers import MIXERS, rope_for


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
}  # that of linear_attention is in ops.py and its tests


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in MIXERS if name != "linear_attention"])
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


@pytest.mark.parametrize("name", MIXERS)
def test_attention_alone_sees_beyond_the_neighbours(name):
    torch.manual_seed(0)
    x = torch.randn(1, 7, 7, 8, requires_grad=True)
    MIXERS[name](8, 2)(x, rope_for(x))[0, 3, 3].sum().backward()
    seen = (x.grad[0] != 0).any(dim=-1)
    reach = {"linear_attention": 49, "identity": 1}.get(name, 9)
    assert seen.sum() == reach
    assert seen[3, 3]

"""Attention weights of each mixer sum its values to its output; receptive fields of networks whose field is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mlla_seg import create_model
from mlla_seg.data.slices import View
from mlla_seg.explain.attention import attention_of
from mlla_seg.explain.blocks import blocks_of, by_stage, observe
from mlla_seg.explain.part import chosen_pixel, part_around
from mlla_seg.explain.receptive_field import reach, receptive_field
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.models.mixers import build_mixer, rope_for


def silenced(mixer):
    """Make what a mixer adds to its weighted sum of values vanish."""
    for name in ("lepe", "kernels"):
        for parameter in getattr(getattr(mixer, name, None), "parameters", list)():
            nn.init.zeros_(parameter)
    for name in ("shortcut",):
        if isinstance(getattr(mixer, name, None), nn.Parameter):
            nn.init.zeros_(getattr(mixer, name))
    return mixer


VALUES = {
    "linear_attention": lambda mixer, x: x,
    "linear": lambda mixer, x: mixer.qkv(x).split(mixer.sizes, dim=-1)[2],
    "linear+rope+lepe": lambda mixer, x: mixer.qkv(x).split(mixer.sizes, dim=-1)[2],
    "linear-normalisation": lambda mixer, x: mixer.qkv(x).split(mixer.sizes, dim=-1)[2],
    "linear-heads+shortcut": lambda mixer, x: mixer.qkv(x).split(mixer.sizes, dim=-1)[2],
    "softmax": lambda mixer, x: mixer.qkv(x).chunk(3, dim=-1)[2],
    "softmax+rope": lambda mixer, x: mixer.qkv(x).chunk(3, dim=-1)[2],
    "inline": lambda mixer, x: mixer.qkv(x).chunk(3, dim=-1)[2],
    "rala": lambda mixer, x: mixer.qkvo(x).chunk(4, dim=-1)[2],
    "nc_ssd": lambda mixer, x: x,
}


@torch.no_grad()
@pytest.mark.parametrize("name", VALUES)
def test_weights_sum_the_values_to_the_output(name):
    torch.manual_seed(0)
    mixer = silenced(build_mixer(name, 8, 2))
    x = torch.randn(1, 4, 5, 8)
    values = VALUES[name](mixer, x).flatten(1, 2)[0]  # (N, C)
    expected = mixer(x, rope_for(x))[0]
    if name == "rala":
        expected = expected / mixer.qkvo(x).chunk(4, dim=-1)[3][0]
    for row, column in ((0, 0), (2, 4)):
        weights = attention_of(mixer, x, rope_for(x), row, column)
        assert weights.shape == ((1 if "heads" in name else 2), 4, 5)
        heads = values.unflatten(-1, (len(weights), -1))
        y = torch.einsum("hn,nhd->hd", weights.flatten(1), heads).flatten()
        if name == "nc_ssd":
            y = mixer.norm(y)
        torch.testing.assert_close(y, expected[row, column], atol=1e-5, rtol=1e-4)


def test_mixers_without_weights_have_none():
    x = torch.randn(1, 3, 3, 8)
    for name in ("identity", "lepe", "lepe_matched", "selective_ssm", "linear+forget_gate"):
        assert attention_of(build_mixer(name, 8, 2), x, rope_for(x), 1, 1) is None


@torch.no_grad()
def test_blocks_are_named_by_their_place_and_seen_in_order():
    network = create_model("mlla_test", mixer="selective_ssm").eval()
    names = list(blocks_of(network))
    assert names[:2] == ["encoder 1/4, block 1", "encoder 1/8, block 1"]
    assert names[3:6] == ["encoder 1/32, block 1", "decoder 1/16, block 1", "decoder 1/16, block 2"]
    assert names[-1] == "decoder 1/4, block 2"
    seen = observe(network, torch.randn(1, 3, 64, 96))
    assert [entry.name for entry in seen] == names
    assert seen[0].inputs.shape == (1, 16, 24, 8)
    assert [entry.name for entry in by_stage(seen)][-2:] == ["decoder 1/8, block 2", "decoder 1/4, block 2"]
    gates = seen[0].mixer.forget_gates(seen[0].inputs)
    assert gates.shape == (1, 4, 16 * 24, 16, 8)
    assert seen[0].forget_gate == pytest.approx(float(gates.mean()))
    assert 0 < seen[0].forget_gate < 1
    norms = seen[0].outputs.norm(dim=-1).flatten()
    assert seen[0].norm_spread == pytest.approx(float(norms.std(correction=0) / norms.mean()))


@torch.no_grad()
def test_forget_gates_are_those_of_the_recurrence():
    torch.manual_seed(0)
    mixer = build_mixer("linear+forget_gate", 8, 2)
    x = torch.randn(1, 2, 3, 8)
    steps = mixer.gates(x.flatten(1, 2))
    decay = mixer.decay.exp().view(8, 4)
    expected = torch.exp(-steps[0, 4, 5] * decay[5, 2])
    assert mixer.forget_gates(x)[0, 4, 2, 5] == pytest.approx(float(expected))


class Convolution(nn.Module):
    """A network whose logits depend on 3 x 3 pixels alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        nn.init.constant_(self.conv.weight, 0.5)

    def segment(self, x):
        return self.conv(x)


def test_the_field_of_a_convolution():
    field = receptive_field(Convolution(), torch.randn(1, 2, 9, 8), 4, 3)
    expected = np.zeros((9, 8))
    expected[3:6, 2:5] = 1.0  # two channels of weight 0.5
    np.testing.assert_allclose(field, expected)
    assert reach(field, 4, 3, 0.1) == 0
    assert reach(field, 4, 3, 0.5) == 1
    assert reach(field, 4, 3, 0.95) == pytest.approx(2**0.5)


def test_the_field_of_attention_spans_the_image_and_that_of_its_control_does_not():
    torch.manual_seed(0)
    image = torch.randn(1, 3, 416, 416)
    fields = {
        mixer: receptive_field(create_model("mlla_test", "unet", mixer=mixer).eval(), image, 112, 112) > 0
        for mixer in ("linear_attention", "identity")
    }
    assert fields["linear_attention"][-32:, -32:].mean() > 0.9  # zero where a ReLU of the stem is off
    assert not fields["identity"][-32:, -32:].any()


def test_a_part_is_what_prediction_sees():
    """A window of the training patch's size around the pixel; the whole slice if it is smaller."""
    image = np.random.default_rng(0).normal(size=(5, 1, 30, 40)).astype(np.float32)
    engine = TorchEngine(nn.Identity())
    part = part_around(engine, image, View(patch_size=(16, 64)), None, 3, 20, 7)
    np.testing.assert_array_equal(part.image[0, 0].numpy(), image[3, 0, 12:28])
    assert (part.row, part.column) == (8, 7)
    part = part_around(engine, image, View(patch_size=(16, 16)), None, 3, 29, 39)
    np.testing.assert_array_equal(part.image[0, 0].numpy(), image[3, 0, 14:, 24:])
    assert (part.row, part.column) == (15, 15)
    part = part_around(engine, image, View(context=1, resize=2.0, patch_size=(60, 80)), None, 0, 29, 39)
    assert part.image.shape == (1, 3, 60, 80)
    assert (part.row, part.column) == (59, 79)
    part = part_around(engine, image, View(spacing_mm=(2.0, None, None)), (4.0, 1.0, 1.0), 4, 0, 0)  # 10 slices
    np.testing.assert_allclose(part.image[0, 0].numpy(), image[4, 0], atol=0.8 * np.abs(image[4] - image[3]).max())


def test_the_chosen_pixel_is_amid_the_foreground():
    labels = np.zeros((4, 20, 20), int)
    labels[2, 5:10, 8:11] = 3
    labels[1, 0, 0] = 1
    assert chosen_pixel(labels, 0) == (2, 7, 9)
    assert chosen_pixel(np.zeros((4, 20, 30), int), 0) == (2, 10, 15)

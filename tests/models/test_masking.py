"""Masked encoding: nothing of a masked pixel reaches a visible feature, and without masks nothing changes."""

from __future__ import annotations

import pytest
import torch

from mlla_seg.models import create_model
from mlla_seg.models.blocks import BLOCKS
from mlla_seg.models.masking import masked, visible_at, why_not
from mlla_seg.models.mixers import LinearAttention, rope_for
from mlla_seg.models.mlla import ConvBN, Encoder

MIXERS = ("linear_attention", "linear", "linear+rope+lepe", "linear+forget_gate", "linear+ape", "identity", "lepe")
DESIGNS = [*((mixer, "mlla") for mixer in (*MIXERS, "lepe_matched", "selective_ssm", "nc_ssd"))]
DESIGNS += [("linear_attention+cpe", "transformer"), ("linear", "mamba")]


def encoder_of(mixer="linear_attention", block="mlla"):
    torch.manual_seed(0)
    encoder = create_model("mlla_test", num_classes=2, mixer=mixer, block=block).encoder
    for parameter in encoder.parameters():  # biases start at zero, which would hide that masked places are not empty
        torch.nn.init.normal_(parameter, std=0.2)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return encoder.double()


def drawn(rows=3, columns=4, batch=2):
    visible = torch.rand(batch, rows, columns, generator=torch.Generator().manual_seed(1)) < 0.5
    visible[:, 0, 0], visible[:, 0, 1] = True, False
    return visible


def encode(encoder, image, visible):
    with masked(encoder, visible):
        return encoder(image)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("mixer", "block"), DESIGNS)
def test_visible_features_do_not_depend_on_masked_pixels(mixer, block, training):
    encoder, visible = encoder_of(mixer, block).train(training), drawn()
    image = torch.randn(2, 3, 96, 128, dtype=torch.double)
    other = torch.where(visible_at(visible, 96, 128)[:, None], image, torch.tensor(float("nan"), dtype=torch.double))
    for ours, theirs in zip(encode(encoder, image, visible), encode(encoder, other, visible), strict=True):
        places = visible_at(visible, *ours.shape[2:])
        kept, expected = ours.movedim(1, -1)[places], theirs.movedim(1, -1)[places]
        assert kept.isfinite().all()
        assert torch.equal(kept, expected)


@pytest.mark.parametrize(("mixer", "block"), DESIGNS)
def test_without_masks_it_is_the_plain_encoder(mixer, block):
    encoder, everything = encoder_of(mixer, block).eval(), torch.ones(2, 2, 3, dtype=torch.bool)
    image = torch.randn(2, 3, 64, 96, dtype=torch.double)
    plain = encoder(image)
    assert all(map(torch.equal, encode(encoder, image, everything), plain))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.modules())
    trained = encode(encoder.train(), image, everything)
    for ours, theirs in zip(trained, encoder(image), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("mixer", "block"), [("linear_attention", "mlla"), ("linear+rope+lepe", "mlla"), DESIGNS[-2]])
def test_masked_places_do_not_exist(mixer, block):
    """An image whose right half is masked is encoded as its left half; batch norms count no other places."""
    image, visible = torch.randn(2, 3, 64, 128, dtype=torch.double), torch.ones(2, 2, 4, dtype=torch.bool)
    visible[:, :, 2:] = False
    ours, theirs = encoder_of(mixer, block).train(), encoder_of(mixer, block).train()
    for whole, half in zip(encode(ours, image, visible), theirs(image[..., :64]), strict=True):
        torch.testing.assert_close(whole[..., : half.shape[3]], half, rtol=1e-4, atol=1e-4)
    for name, value in ours.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-4, atol=1e-4)


def test_attention_leaves_masked_tokens_out():
    torch.manual_seed(0)
    mixer, x = LinearAttention(16, 2).double(), torch.randn(1, 4, 4, 16, dtype=torch.double)
    torch.nn.init.zeros_(mixer.lepe.weight), torch.nn.init.zeros_(mixer.lepe.bias)
    visible = torch.rand(1, 4, 4) < 0.5
    holder = torch.nn.ModuleList([mixer])
    with masked(holder, visible):
        ours = mixer(x, rope_for(x))[visible]
    tokens, rope = x[visible][None, :, None], rope_for(x)[visible[0]][:, None]  # one column of the visible tokens
    torch.testing.assert_close(ours, mixer(tokens, rope)[0, :, 0], rtol=1e-5, atol=1e-5)


def test_gradients_are_finite_and_none_reaches_masked_pixels():
    encoder, visible = encoder_of().train(), drawn()
    image = torch.randn(2, 3, 96, 128, dtype=torch.double, requires_grad=True)
    features = encode(encoder, image, visible)
    sum((x.movedim(1, -1)[visible_at(visible, *x.shape[2:])] ** 2).sum() for x in features).backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
    seen = visible_at(visible, 96, 128)[:, None].expand_as(image)
    assert image.grad[seen].any()
    assert not image.grad[~seen].any()


def test_patches_may_be_finer_than_the_coarsest_places():
    encoder, visible = encoder_of().eval(), torch.zeros(1, 4, 6, dtype=torch.bool)
    visible[:, ::2, 1] = True  # patches of 16 pixels
    image = torch.randn(1, 3, 64, 96, dtype=torch.double)
    other = torch.where(visible_at(visible, 64, 96)[:, None], image, 7.0)
    for ours, theirs in zip(encode(encoder, image, visible), encode(encoder, other, visible), strict=True):
        places = visible_at(visible, *ours.shape[2:])
        assert torch.equal(ours.movedim(1, -1)[places], theirs.movedim(1, -1)[places])
    assert visible_at(visible, 2, 3).tolist() == [[[True, False, False], [True, False, False]]]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("mlla_test", {}, None),
        ("mlla_test", {"mixer": "softmax"}, "Softmax"),
        ("mlla_test", {"mixer": "rala"}, "RALA"),
    ],
)
def test_what_cannot_be_masked_is_known(name, options, reason):
    said = why_not(create_model(name, **options).encoder)
    assert said is None if reason is None else reason in said
    assert "not an MLLA encoder" in why_not(Encoder())


def test_every_layer_that_mixes_places_is_known():
    """Convolutions of images, batch norms and mixers are all that reads other places; a new kind must be added."""
    known = (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear, torch.nn.LayerNorm, torch.nn.GELU, ConvBN)
    for block in BLOCKS:
        encoder = create_model("mlla_test", block=block).encoder
        leaves = [module for module in encoder.modules() if not [*module.children()]]
        assert all(isinstance(leaf, (*known, torch.nn.Identity)) for leaf in leaves)

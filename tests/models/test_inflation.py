"""Inflated weights: a volume of identical slices gives what the image gives, except where positions are rotated."""

from __future__ import annotations

import pytest
import torch

from mlla_seg import MLLAEncoder, create_model
from mlla_seg.errors import InputError
from mlla_seg.models.decoders import OF_BLOCKS
from mlla_seg.models.inflation import inflated
from mlla_seg.models.mixers import build_mixer, rope_for

COARSE = [[1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]


def pair(decoder, strides, **options):
    """The same network for images and for volumes, with batch norms that have seen data."""
    torch.manual_seed(0)
    flat = create_model("mlla_test", decoder, 3, 2, {"mean": 1.0, "std": 2.0}, **options)
    for _ in range(3):
        flat(torch.randn(4, 2, 64, 64))
    deep = create_model("mlla_test", decoder, 3, 2, dims=3, strides=strides, **options)
    deep.load_state_dict(inflated(flat.state_dict(), deep))
    return flat.eval(), deep.eval()


@torch.no_grad()
@pytest.mark.parametrize("decoder", OF_BLOCKS)
@pytest.mark.parametrize("mixer", ["linear+lepe", "softmax", "lepe_matched"])
@pytest.mark.parametrize("strides", [None, COARSE])
def test_identical_slices_give_the_answer_of_the_image_in_every_slice(decoder, mixer, strides):
    flat, deep = pair(decoder, strides, mixer=mixer)
    image = torch.randn(1, 2, 33, 40)
    expected = flat(image)[:, :, None].expand(-1, -1, 3, -1, -1)
    torch.testing.assert_close(deep(image[:, :, None].expand(-1, -1, 3, -1, -1)), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_rotated_positions_have_other_frequencies():
    torch.manual_seed(0)
    flat, deep = build_mixer("linear_attention", 16, 2), build_mixer("linear_attention", 16, 2, (3, 3, 3))
    deep.load_state_dict(inflated(flat.state_dict(), deep))
    image = torch.randn(1, 6, 5, 16)
    volume = image[:, None].expand(-1, 4, -1, -1, -1)
    expected, found = flat(image, rope_for(image)), deep(volume, rope_for(volume))
    torch.testing.assert_close(deep.lepe(volume), flat.lepe(image)[:, None].expand_as(volume))
    assert (found - expected[:, None]).abs().max() > 0.01
    flat_rope, deep_rope = (torch.tensor([1.0, 0.0]).expand(*x.shape[1:-1], 8, 2) for x in (image, volume))  # no turn
    torch.testing.assert_close(deep(volume, deep_rope), flat(image, flat_rope)[:, None].expand_as(volume))


@torch.no_grad()
def test_kernels_divided_over_slices_agree_away_from_the_ends():
    torch.manual_seed(0)
    size = dict(embed_dim=8, depths=(1, 1), num_heads=(1, 1), mixer="lepe")
    flat, deep = MLLAEncoder(**size).eval(), MLLAEncoder(**size, dims=3, strides=[[1, 2, 2]] * 5).eval()
    deep.load_state_dict(inflated(flat.state_dict(), deep, "mean"))
    image = torch.randn(1, 3, 16, 16)
    maps = deep(image[:, :, None].expand(-1, -1, 31, -1, -1))
    for ours, theirs in zip(maps, flat(image), strict=True):
        torch.testing.assert_close(ours[:, :, 15], theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(maps[-1][:, :, 0], flat(image)[-1], atol=1e-5)


def test_other_networks_are_refused():
    flat, deep = pair("mlla_unet", None)
    with pytest.raises(InputError, match=r"lack decoder.see.0.weight of this network"):
        inflated(flat.state_dict(), create_model("mlla_test", "mlla_unet_fine", 3, 2, dims=3))
    with pytest.raises(InputError, match=r"stem.conv1.0.weight of the weights is .* does not give"):
        inflated(flat.state_dict(), create_model("mlla_nano", "mlla_unet", 3, 2, dims=3))
    with pytest.raises(InputError, match="Unknown way to inflate weights 'center'"):
        inflated(flat.state_dict(), deep, "center")

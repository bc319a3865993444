"""Fast operations against their plain definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch

from mlla_seg.models import ops

GRIDS = [(1, 1), (1, 7), (7, 9), (3, 21), (16, 16), (5, 1), (1, 1, 1), (3, 4, 5), (1, 7, 2)]


def inputs(spatial, dim, requires_grad=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = math.prod(spatial)
    return [torch.randn(2, n, dim, generator=generator).requires_grad_(requires_grad) for _ in range(3)]


def attention(q, k, v, spatial, num_heads):
    rope = ops.rope_table(list(spatial), q.shape[-1]).flatten(0, -3)
    return ops.linear_attention(q, k, v, rope, num_heads)


@pytest.mark.parametrize("spatial", GRIDS)
@pytest.mark.parametrize(("dim", "num_heads"), [(8, 1), (24, 3), (64, 2)])
def test_attention_agrees_with_its_definition_forward_and_backward(spatial, dim, num_heads):
    fast, plain = inputs(spatial, dim, True), inputs(spatial, dim, True)
    y = attention(*fast, spatial, num_heads)
    expected = ops.linear_attention_reference(*plain, spatial, num_heads)
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(cotangent)
    expected.backward(cotangent.double())
    for name, ours, theirs in zip("qkv", fast, plain, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"d{n}: {m}")


def test_definition_is_a_weighted_mean_where_nothing_is_rotated():
    # One token is at position (0, 0), which turns by nothing: its output is its value times q.k / (q.k + epsilon).
    q, k, v = inputs((1, 1), 8)
    phi = torch.nn.functional.elu(torch.stack((q, k))).double() + 1
    weight = (phi[0] * phi[1]).sum(-1, keepdim=True)
    expected = v.double() * weight / (weight + ops.EPSILON)
    torch.testing.assert_close(ops.linear_attention_reference(q, k, v, (1, 1), 1), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shift", [-12.0, 0.0, 50.0])
def test_attention_in_half_precision_stays_near_float64(dtype, shift):
    spatial, num_heads = (48, 48), 2
    q, k, v = ((x + offset).to(dtype) for x, offset in zip(inputs(spatial, 16), (shift, shift, 0), strict=True))
    y = attention(q, k, v, spatial, num_heads)
    assert y.dtype == dtype
    expected = ops.linear_attention_reference(q, k, v, spatial, num_heads)
    error = (y.double() - expected).norm() / expected.norm()
    # At -12 the normaliser is of the size of epsilon; only the output's own rounding remains elsewhere.
    assert error < 5e-3


CASES = {
    "random": lambda x: x,
    "-12": lambda x: x - 12,
    "+50": lambda x: x + 50,
    "constant": lambda x: x * 0 + 0.3,
    "mixed": lambda x: torch.where(x > 0, x + 50, x - 12),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_errors_in_half_precision_do_not_grow_with_the_image(dtype, case):
    errors = []
    for side in (56, 128, 256):  # 3,136 to 65,536 tokens
        q, k, v = inputs((side, side), 16, seed=side)
        q, k = CASES[case](q).to(dtype), CASES[case](k).to(dtype)
        v = (v + 1).to(dtype)  # a mean that does not vanish: sums lose what is added late
        rope = ops.rope_table([side, side], 16).flatten(0, -3)
        with torch.autocast("cpu", dtype):  # as in training, where it would take the products to half precision
            y = ops.linear_attention(q, k, v, rope, 2)
        expected = ops.linear_attention(q.double(), k.double(), v.double(), rope.double(), 2)
        assert y.dtype == dtype
        errors.append(((y.double() - expected).norm() / expected.norm()).item())
    assert max(errors) <= 5e-3
    assert errors[-1] <= 1.5 * errors[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_works_under_autocast(dtype):
    q, k, v = inputs((8, 8), 16, requires_grad=True)
    with torch.autocast("cpu", dtype):
        y = attention(q, k, v, (8, 8), 2)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(q.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elu_plus_one_is_positive_and_right_far_below_zero(dtype):
    x = torch.tensor([-60.0, -17.0, -12.0, -7.0, -1.0, 0.0, 0.5, 50.0], dtype=dtype)
    expected = torch.where(x > 0, x.double() + 1, x.double().exp())
    assert (ops.elu_plus_one(x) > 0).all()
    torch.testing.assert_close(ops.elu_plus_one(x).double(), expected, atol=0, rtol=torch.finfo(dtype).eps * 2)


def test_elu_plus_one_has_finite_gradients_for_large_inputs():
    x = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], requires_grad=True)
    ops.elu_plus_one(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 0.36788, 1.0, 1.0, 1.0]))


def test_elu_plus_one_has_the_gradients_of_its_definition():
    x = torch.linspace(-20, 20, 41, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(ops.elu_plus_one_reference(x).sum(), x)
    (found,) = torch.autograd.grad(ops.elu_plus_one(x).sum(), x)
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-12)
    assert torch.autograd.gradgradcheck(ops.elu_plus_one, x[x != 0].detach().requires_grad_())


def test_rope_depends_on_relative_positions_only():
    rope = ops.rope_table([6, 5], 16)
    q, k = torch.randn(2, 16)
    product = ops.rotate_pairs(q, rope) @ ops.rotate_pairs(k, rope).flatten(0, 1).T  # (6, 5, 30)
    product = product.view(6, 5, 6, 5)
    torch.testing.assert_close(product[1:, 1:, 1:, 1:], product[:-1, :-1, :-1, :-1], atol=1e-5, rtol=1e-5)


def test_rotation_by_complex_numbers_is_its_definition_forward_and_backward():
    rope = ops.rope_table([6, 5], 16)
    results = []
    for rotate in (ops.rotate_pairs, ops.rotate_pairs_reference):
        x = torch.randn(2, 6, 5, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = rotate(x, rope)
        (y * torch.linspace(0, 1, y.numel()).view(y.shape)).sum().backward()
        results.append((y, x.grad))
    torch.testing.assert_close(results[0], results[1])


def test_rope_turns_the_first_half_of_the_pairs_by_rows_and_the_second_by_columns():
    cos, sin = ops.rope_table([4, 3], 8).unbind(-1)
    angles = torch.atan2(sin, cos)  # (4, 3, 4): theta = 1, 0.01 for rows, then for columns
    torch.testing.assert_close(angles[3, 0], torch.tensor([3.0, 0.03, 0.0, 0.0]))
    torch.testing.assert_close(angles[0, 2], torch.tensor([0.0, 0.0, 2.0, 0.02]))


def test_rope_is_exact_in_row_1000():
    sin = ops.rope_table([1001, 1], 64)[..., 1]
    exact = torch.sin(1000 * 10000.0 ** (-torch.arange(16, dtype=torch.float64) / 16))
    torch.testing.assert_close(sin[1000, 0, :16].double(), exact, atol=1e-4, rtol=0)


def test_rope_on_three_axes_leaves_the_last_pairs_as_they_are():
    cos, sin = ops.rope_table([4, 3, 5], 16).unbind(-1)  # K = 2, 8 pairs
    angles = torch.atan2(sin, cos)
    expected = [3.0, 0.03, 2.0, 0.02, -2 * math.pi + 4, 0.04, 0.0, 0.0]  # theta = 1, 0.01 for slices, rows, columns
    torch.testing.assert_close(angles[3, 2, 4], torch.tensor(expected))


@pytest.mark.parametrize(("axes", "channels"), [(2, 7), (2, 2), (3, 4)])
def test_rope_refuses_channels_without_a_pair_for_every_axis(axes, channels):
    with pytest.raises(ValueError, match=f"an even number of channels, {2 * axes} or more, got {channels}"):
        ops.rope_table([2] * axes, channels)


@pytest.mark.parametrize("scale", [(4, 4), (2, 1), (1, 2, 4)])
def test_channels_are_unfolded_in_the_order_of_offsets(scale):
    x = torch.randn(2, *range(3, 3 + len(scale)), math.prod(scale) * 5)
    y = ops.unfold_channels(x, list(scale))
    assert y.shape == (2, *(size * step for size, step in zip(x.shape[1:-1], scale, strict=True)), 5)
    place = tuple(step - 1 for step in scale)  # the last offset of the first place
    torch.testing.assert_close(y[(0, *place)], x[(0, *[0] * len(scale))][-5:])
    if len(scale) == 2 and scale[0] == scale[1]:
        first = x.unflatten(-1, (-1, 5)).movedim(-1, -2).flatten(-2)  # torch has the offsets last
        torch.testing.assert_close(y, torch.pixel_shuffle(first.movedim(-1, 1), scale[0]).movedim(1, -1))


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 3)
    y = ops.drop_path(x, 0.25, training=True)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (y == y[:, :1]).all()
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert ops.drop_path(x, 0.25, training=False) is x

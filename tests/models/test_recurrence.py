"""The unified recurrence against independent definitions of its two settings; its parallel form against the loop."""

from __future__ import annotations

import pytest
import torch

from mlla_seg.models import ops, recurrence
from mlla_seg.models.recurrence import gated_scan, recurrence_reference, selective_ssm

SIZES = [1, 2, 5, 63, 100]
B, D, C = 2, 3, 6


def tensors(tokens, *channels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(B, tokens, *shape, generator=generator, dtype=torch.float64) + 0.01 for shape in channels]


def assert_equal_with_gradients(ours, theirs, inputs):
    """Compare outputs, and gradients of a random scalar of them, by the name of the input."""
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    cotangent = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for (name, _), a, b in zip(
        inputs.items(),
        torch.autograd.grad(ours, list(inputs.values()), cotangent, retain_graph=True),
        torch.autograd.grad(theirs, list(inputs.values()), cotangent, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-8, msg=lambda m, n=name: f"d{n}: {m}")


def ssm_loop(x, delta, a, b, c, d, discretisation):
    """Mamba's recurrence with one state vector per channel, written from its equations."""
    outputs = []
    for image in range(x.shape[0]):
        states = [torch.zeros(a.shape[1], dtype=x.dtype) for _ in range(x.shape[2])]
        rows = []
        for i in range(x.shape[1]):
            row = []
            for channel in range(x.shape[2]):
                step = delta[image, i, channel]
                transition = torch.diag(torch.exp(step * a[channel]))
                into = step * b[image, i]
                if discretisation == "zoh":  # (Delta A)^-1 (exp(Delta A) - I) Delta B
                    product = torch.diag(step * a[channel])
                    into = torch.linalg.inv(product) @ (torch.matrix_exp(product) - torch.eye(len(into))) @ into
                states[channel] = transition @ states[channel] + into * x[image, i, channel]
                row.append(c[image, i] @ states[channel] + d[channel] * x[image, i, channel])
            rows.append(torch.stack(row))
        outputs.append(torch.stack(rows))
    return torch.stack(outputs)


@pytest.mark.parametrize("discretisation", recurrence.DISCRETISATIONS)
@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_the_selective_ssm_is_a_setting_of_the_recurrence(tokens, discretisation):
    x, delta, b, c = tensors(tokens, (C,), (C,), (D,), (D,))
    delta += 0.2  # the zero-order hold below subtracts numbers near 1
    a, d = -tensors(C, (D,))[0][0] - 0.2, tensors(1, (C,))[0][0, 0]
    inputs = dict(x=x, delta=delta, a=a, b=b, c=c, d=d)
    for value in inputs.values():
        value.requires_grad_()
    expected = ssm_loop(*inputs.values(), discretisation)
    assert_equal_with_gradients(selective_ssm(*inputs.values(), discretisation), expected, inputs)
    gate = delta[:, :, None] if discretisation == "paper" else torch.expm1(delta[:, :, None] * a.mT) / a.mT
    loop = recurrence_reference(c, b, x, 1, gate, torch.exp(delta[:, :, None] * a.mT), d, normalised=False)
    assert_equal_with_gradients(loop, expected, inputs)


def test_the_discretisations_differ_and_meet_for_small_steps():
    x, delta, b, c = tensors(9, (C,), (C,), (D,), (D,))
    a = -tensors(C, (D,))[0][0]
    far, near = (
        (selective_ssm(x, delta * s, a, b, c) / selective_ssm(x, delta * s, a, b, c, None, "zoh") - 1).abs().max()
        for s in (1.0, 1e-4)
    )
    assert far > 0.1
    assert near < 1e-4


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("tokens", SIZES)
def test_causal_linear_attention_is_a_setting_of_the_recurrence(tokens, heads):
    q, k, v = tensors(tokens, (heads * D,), (heads * D,), (C,))
    inputs = dict(q=q, k=k, v=v)
    for value in inputs.values():
        value.requires_grad_()
    mask = torch.ones(tokens, tokens, dtype=torch.float64).tril()
    parts = []
    for head in range(heads):
        own = slice(head * D, head * D + D)
        weights = q[..., own] @ k[..., own].mT * mask
        parts.append(weights / weights.sum(-1, keepdim=True) @ v.chunk(heads, -1)[head])
    expected = torch.cat(parts, dim=-1)
    assert_equal_with_gradients(recurrence_reference(q, k, v, heads), expected, inputs)
    assert_equal_with_gradients(recurrence.recurrence(q, k, v, heads), expected, inputs)


SWITCHES = {
    "input gate": {"input_gate"},
    "forget gate": {"forget_gate"},
    "shortcut": {"shortcut"},
    "all": {"input_gate", "forget_gate", "shortcut"},
}


@pytest.mark.parametrize("busy", [1, 100, 10**9])
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
@pytest.mark.parametrize("tokens", SIZES)
def test_the_parallel_form_equals_the_loop(monkeypatch, tokens, switches, normalised, busy):
    monkeypatch.setattr(recurrence, "BUSY_CPU", busy)
    q, k, v, into, kept = tensors(tokens, (2 * D,), (2 * D,), (C,), (1, C), (D, C))
    gates = dict(input_gate=into, forget_gate=kept.clamp(max=1), shortcut=tensors(1, (C,))[0][0])
    inputs = dict(q=q, k=k, v=v) | {name: value for name, value in gates.items() if name in switches}
    for value in inputs.values():
        value.requires_grad_()
    options = dict(num_heads=2, normalised=normalised)
    expected = recurrence_reference(**inputs, **options)
    assert_equal_with_gradients(recurrence.recurrence(**inputs, **options), expected, inputs)


def test_gates_of_zero_and_one_forget_all_and_nothing():
    inputs = torch.randn(1, 40, 3, dtype=torch.float64)
    torch.testing.assert_close(gated_scan(torch.zeros_like(inputs), inputs), inputs)
    torch.testing.assert_close(gated_scan(torch.ones_like(inputs), inputs), inputs.cumsum(dim=1))


def test_without_forgetting_both_directions_together_are_the_attention_of_mlla():
    """Forget gate 1 and all tokens seen: the limit for which the paper replaces the gate by position encodings."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 35, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    still = ops.rope_table([5, 7], 8).flatten(0, -3) * 0 + torch.tensor([1.0, 0.0])  # no rotation
    expected = ops.linear_attention(q, k, v, still, 2)
    phi_q, phi_k = ops.elu_plus_one(q), ops.elu_plus_one(k)

    def both(values):
        forward, backward = (
            recurrence.recurrence(*(x.flip(1) if turn else x for x in (phi_q, phi_k, values)), 2, normalised=False)
            for turn in (False, True)
        )
        own = (phi_q * phi_k).unflatten(-1, (2, -1)).sum(-1).repeat_interleave(4, -1) * values  # counted twice
        return forward + backward.flip(1) - own

    torch.testing.assert_close(both(v) / both(torch.ones_like(v)), expected, atol=1e-6, rtol=1e-5)  # epsilon of MLLA

"""Each token mixer against the equations of its paper, written out over all pairs of pixels in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mlla_seg.models import ops
from mlla_seg.models.mixers import build_mixer, rope_for
from mlla_seg.models.mixers.inline import inline_attention
from mlla_seg.models.mixers.selective import STATE

DIM, HEADS, GRID = 8, 2, (3, 5)


def phi(x):
    return F.elu(x) + 1


def of_heads(function, *tensors):
    """Apply a function of tokens ``(N, d)`` to each head."""
    return torch.cat([function(*parts) for parts in zip(*(t.chunk(HEADS, -1) for t in tensors), strict=True)], dim=-1)


def rotated(x, grid=GRID):
    """Rotate channel pairs of tokens ``(N, C)`` by row and column, with complex numbers."""
    count = x.shape[-1] // 4
    theta = 10000 ** (-torch.arange(count, dtype=torch.float64) / count)
    rows, columns = (i.flatten()[:, None] for i in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    angle = torch.cat((rows * theta, columns * theta), dim=-1)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def conv(layer, tokens):
    """Depthwise convolution of tokens ``(N, C)``."""
    image = tokens.unflatten(0, GRID).movedim(-1, 0)
    reach = layer.weight.shape[-1] // 2
    return F.conv2d(image, layer.weight, layer.bias, padding=reach, groups=len(image)).movedim(0, -1).flatten(0, 1)


def softmax(mixer, x):
    q, k, v = (x @ mixer.qkv.weight.T + mixer.qkv.bias).chunk(3, -1)
    return of_heads(lambda q, k, v: torch.softmax(q @ k.T / q.shape[-1] ** 0.5, -1) @ v, q, k, v)


def softmax_placed(mixer, x):
    q, k, v = (x @ mixer.qkv.weight.T + mixer.qkv.bias).chunk(3, -1)
    attend = lambda q, k, v: torch.softmax(q @ k.T / q.shape[-1] ** 0.5, -1) @ v  # noqa: E731
    return of_heads(attend, rotated(q), rotated(k), v) + conv(mixer.lepe, v)


def projected(mixer, x):
    q, k, v = (x @ mixer.qkv.weight.T + mixer.qkv.bias).chunk(3, -1)
    return phi(q), phi(k), v


def average(q, k, v):
    weights = q @ k.T
    return weights / weights.sum(-1, keepdim=True) @ v


def linear(mixer, x):
    return of_heads(average, *projected(mixer, x))


def time_steps(gates, x):
    return F.softplus(x @ gates.down.weight.T @ gates.up.weight.T + gates.bias)


def input_gate(mixer, x):
    q, k, v = projected(mixer, x)
    return of_heads(average, q, k, v * time_steps(mixer.gates, x))


def shortcut(mixer, x):
    return linear(mixer, x) + mixer.shortcut * projected(mixer, x)[2]


def bare(mixer, x):
    return of_heads(lambda q, k, v: q @ k.T @ v / len(v), *projected(mixer, x))


def one_head(mixer, x):
    y = x @ mixer.qkv.weight.T + mixer.qkv.bias
    d = DIM // HEADS
    return average(phi(y[:, :d]), phi(y[:, d : 2 * d]), y[:, 2 * d :])


def rope(mixer, x):
    q, k, v = projected(mixer, x)
    turned = of_heads(lambda q, k, v: q @ k.T @ v, rotated(q), rotated(k), v)
    return turned / of_heads(lambda q, k, v: (q @ k.T).sum(-1, keepdim=True).expand_as(v), q, k, v)


def lepe(mixer, x):
    return linear(mixer, x) + conv(mixer.lepe, projected(mixer, x)[2])


def orders():
    """Visiting orders of the pixels: by rows, by columns, and both in reverse."""
    index = torch.arange(GRID[0] * GRID[1]).view(GRID)
    forward = [index.flatten(), index.T.flatten()]
    return [*forward, *(order.flip(0) for order in forward)]


def forget_gate(mixer, x):
    q, k, v = projected(mixer, x)
    steps = time_steps(mixer.gates, x)
    decay = torch.exp(mixer.decay).view(DIM, DIM // HEADS)
    result = torch.zeros_like(v)
    for order in orders():
        for channel in range(DIM):
            own = slice(*(channel // (DIM // HEADS) * (DIM // HEADS) + edge for edge in (0, DIM // HEADS)))
            state, total = torch.zeros(2, DIM // HEADS, dtype=v.dtype)
            for i in order:
                state = torch.exp(-steps[i, channel] * decay[channel]) * state + k[i, own] * v[i, channel]
                total = total + k[i, own]
                result[i, channel] += (q[i, own] @ state) / (q[i, own] @ total) / 4
    return result


def selective_ssm(mixer, x):
    rank = mixer.step.shape[1]
    result = torch.zeros_like(x)
    for direction, order in enumerate(orders()):
        chosen = x @ mixer.select[direction]
        bias = mixer.step_bias.view(4, DIM)[direction]
        steps = F.softplus(chosen[:, :rank] @ mixer.step[direction] + bias)
        a = -torch.exp(mixer.decay.view(4, DIM, STATE)[direction])
        state = torch.zeros(DIM, STATE, dtype=x.dtype)
        for i in order:
            b, c = chosen[i, rank : rank + STATE], chosen[i, rank + STATE :]
            state = torch.exp(steps[i, :, None] * a) * state + steps[i, :, None] * b * x[i, :, None]
            result[i] += state @ c + mixer.shortcut * x[i]
    return F.layer_norm(result, (DIM,), mixer.norm.weight, mixer.norm.bias)


def inline(mixer, x):
    q, k, v = (x @ mixer.qkv.weight.T + mixer.qkv.bias).chunk(3, -1)

    def attend(q, k, v):
        similar = q @ k.T * q.shape[-1] ** -0.5 / len(q)
        return (similar - similar.mean(-1, keepdim=True) + 1 / len(q)) @ v

    first, _, second = mixer.kernels
    hidden = F.gelu(F.conv1d(x.mean(0)[None, :, None], first.weight, first.bias, groups=HEADS))
    kernels = F.conv1d(hidden, second.weight, second.bias, groups=HEADS).view(DIM, 1, 3, 3)
    image = v.unflatten(0, GRID).movedim(-1, 0)
    return of_heads(attend, q, k, v) + F.conv2d(image, kernels, padding=1, groups=DIM).movedim(0, -1).flatten(0, 1)


def rala(mixer, x):
    q, k, v, gate = (x @ mixer.qkvo.weight.T + mixer.qkvo.bias).chunk(4, -1)

    def attend(q, k, v):
        alpha = len(q) * torch.softmax(q.mean(0) @ k.T * q.shape[-1] ** -0.5, -1)
        k = alpha[:, None] * k
        return rotated(q) @ rotated(k).T @ v / (q @ k.T).sum(-1, keepdim=True)

    return (of_heads(attend, phi(q), phi(k), v) + conv(mixer.lepe, v)) * gate


def nc_ssd(mixer, x):
    b, c = F.silu(conv(mixer.conv, x @ mixer.select.weight.T)).chunk(2, -1)
    weights = F.softplus(x @ mixer.step.weight.T + mixer.step_bias) * torch.exp(mixer.decay)
    parts = []
    for head, values in enumerate(x.chunk(HEADS, -1)):
        parts.append(c @ b.T @ (weights[:, head, None] * values) + mixer.shortcut[head] * values)
    return F.layer_norm(torch.cat(parts, -1), (DIM,), mixer.norm.weight, mixer.norm.bias)


DEFINITIONS = {
    "softmax": softmax,
    "softmax+rope+lepe": softmax_placed,
    "linear": linear,
    "+input_gate": input_gate,
    "linear+forget_gate": forget_gate,
    "linear+shortcut": shortcut,
    "linear-normalisation": bare,
    "linear-heads": one_head,
    "linear+rope": rope,
    "linear+lepe": lepe,
    "selective_ssm": selective_ssm,
    "inline": inline,
    "rala": rala,
    "nc_ssd": nc_ssd,
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_mixer_is_what_its_equations_say(name):
    torch.manual_seed(0)
    mixer = build_mixer(name, DIM, HEADS).double()
    for parameter in mixer.parameters():  # biases and norms that are not trivial
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.randn(2, *GRID, DIM, dtype=torch.float64)
    expected = torch.stack([DEFINITIONS[name](mixer, image.flatten(0, 1)).unflatten(0, GRID) for image in x])
    # MLLA's epsilon is part of the normalisers here, and its angles are float32.
    torch.testing.assert_close(mixer(x, rope_for(x)), expected, atol=2e-5, rtol=2e-5)


def test_rope_and_forgetting_can_be_combined():
    torch.manual_seed(0)
    mixer = build_mixer("linear+rope+forget_gate", DIM, HEADS).double()
    with torch.no_grad():
        mixer.decay.fill_(-40.0)  # forgets nothing: each direction is causal attention
    x = torch.randn(1, *GRID, DIM, dtype=torch.float64)
    q, k, v = projected(mixer, x[0].flatten(0, 1))
    expected = torch.zeros_like(v)
    for order in orders():
        seen = torch.zeros(len(v), len(v), dtype=torch.float64)
        for position, pixel in enumerate(order):
            seen[pixel, order[: position + 1]] = 1

        def attend(q, k, v, turned_q, turned_k, seen=seen):
            return (turned_q @ turned_k.T * seen) @ v / (q @ k.T * seen).sum(-1, keepdim=True)

        expected += of_heads(attend, q, k, v, rotated(q), rotated(k)) / 4
    torch.testing.assert_close(mixer(x, rope_for(x))[0].flatten(0, 1), expected, atol=1e-6, rtol=1e-6)


def test_weights_of_inline_attention_sum_to_one_and_differ_for_parallel_queries():
    q, k = torch.randn(2, 1, 6, 4, dtype=torch.float64)
    ones = torch.ones(1, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(inline_attention(q, k, ones, 1), ones)
    v = torch.randn(1, 6, 4, dtype=torch.float64)
    assert not torch.allclose(inline_attention(q, k, v, 1), inline_attention(2 * q, k, v, 1))
    plain = [ops.elu_plus_one(x) for x in (q, k)]
    torch.testing.assert_close(  # linear attention cannot tell them apart
        average(plain[0][0], plain[1][0], v[0]), average(2 * plain[0][0], plain[1][0], v[0])
    )

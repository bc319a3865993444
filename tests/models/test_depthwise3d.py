"""Depthwise 3-D convolutions against torch's, forward and backward, on awkward sizes."""

from __future__ import annotations

import pytest
import torch

from mlla_seg.models.depthwise3d import depthwise3d, depthwise3d_reference, transposed3d, transposed3d_reference

SIZES = [(1, 1, 1), (2, 7, 1), (5, 4, 9), (1, 6, 3)]
STRIDES = [(1, 1, 1), (2, 2, 2), (1, 2, 2), (2, 1, 1)]
KERNELS = [(3, 3, 3), (1, 3, 3), (5, 5, 5)]


def results(function, dtype, size, kernel, *arguments):
    """Output and gradients, by name, of random inputs in memory that is not channels-last."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(3, 1, *kernel, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    y = function(x, weight, *arguments)
    y.backward(torch.randn(y.shape, generator=generator, dtype=torch.float64).to(dtype))
    return {"y": y.detach(), "dx": x.grad, "dweight": weight.grad}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", SIZES)
def test_both_directions_agree_with_torch_forward_and_backward(size, stride, kernel):
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    for fast, plain, arguments in (
        (depthwise3d, depthwise3d_reference, (bias, list(stride))),
        (transposed3d, transposed3d_reference, (list(stride),)),
    ):
        expected = results(plain, torch.float64, size, kernel, *arguments)
        of_bias, bias.grad = bias.grad, None
        ours = results(fast, torch.float64, size, kernel, *arguments)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(bias.grad, of_bias)
        bias.grad = None


def test_single_precision_is_near_double():
    bias = torch.randn(3)
    single = results(depthwise3d, torch.float32, (9, 5, 7), (3, 3, 3), bias, [1, 2, 2])
    double = results(depthwise3d_reference, torch.float64, (9, 5, 7), (3, 3, 3), bias.double(), [1, 2, 2])
    for name, value in single.items():
        torch.testing.assert_close(value.double(), double[name], atol=1e-4, rtol=1e-4)


def test_under_autocast_it_has_the_precision_of_convolutions():
    x, weight = torch.randn(1, 3, 4, 5, 6, requires_grad=True), torch.randn(3, 1, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        bias, stride = torch.ones(3), [2, 2, 2]
        ours = [depthwise3d(x, weight, bias, stride), transposed3d(x, weight, stride)]
        theirs = [depthwise3d_reference(x, weight, bias, stride), transposed3d_reference(x, weight, stride)]
    for y, expected in zip(ours, theirs, strict=True):
        assert y.dtype == expected.dtype == torch.bfloat16
        torch.testing.assert_close(y, expected, atol=0.1, rtol=0.05)
        y.sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32
    assert torch.isfinite(weight.grad).all()


def test_no_gradient_is_computed_for_what_needs_none():
    x = torch.randn(1, 2, 3, 4, 5)
    weight = torch.randn(2, 1, 3, 3, 3, requires_grad=True)
    depthwise3d(x, weight, None, [1, 1, 1]).sum().backward()
    assert x.grad is None
    assert weight.grad is not None

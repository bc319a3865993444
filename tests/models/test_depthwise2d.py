import pytest
import torch
from torch import nn

from mlla_seg.models.depthwise2d import Depthwise2d, TransposedDepthwise2d
from mlla_seg.models.mlla import dilate

PAIRS = {
    "stride 1": (Depthwise2d(6, (3, 3)), nn.Conv2d(6, 6, 3, 1, 1, groups=6)),
    "stride 2": (Depthwise2d(6, (3, 3), (2, 2)), nn.Conv2d(6, 6, 3, 2, 1, groups=6)),
    "one axis": (Depthwise2d(6, (1, 3), (1, 2)), nn.Conv2d(6, 6, (1, 3), (1, 2), (0, 1), groups=6)),
    "transposed": (
        TransposedDepthwise2d(6, (3, 3), (2, 2)),
        nn.ConvTranspose2d(6, 6, 3, 2, 1, 1, groups=6, bias=False),
    ),
}
IN_FLOAT32 = ("stride 2", "one axis", "transposed")


def outputs(name, half=None):
    """Return output and gradients of our layer and of torch's with the same weights."""
    ours, theirs = PAIRS[name]
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    results = []
    for layer in (ours, theirs):
        with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
            y = layer(x)
        factors = torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype)
        results.append((y.detach(), *torch.autograd.grad((y * factors).sum(), [x, layer.weight])))
    return results


@pytest.mark.parametrize("name", PAIRS)
def test_float32_is_torchs(name):
    ours, theirs = outputs(name)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", IN_FLOAT32)
def test_half_precision_is_float32_rounded(name, half):
    exact = outputs(name)[1]
    ours, theirs = outputs(name, half)
    assert ours[0].dtype == theirs[0].dtype == half
    torch.testing.assert_close(ours[0], exact[0].to(half), rtol=0, atol=0)
    for mine, torchs, one in zip(ours[1:], theirs[1:], exact[1:], strict=True):
        assert mine.dtype == torchs.dtype == torch.float32
        assert (mine - one).abs().max() <= 2 * (torchs - one).abs().max()  # factors are rounded in both


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_weights_in_half_precision(name):
    ours, theirs = PAIRS[name]
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 5, 7)
    y = nn.Module.to(ours, torch.bfloat16)(x.bfloat16())
    ours.float()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), theirs(x), rtol=0.02, atol=0.02)


def test_dilation_is_obeyed():
    layer = Depthwise2d(6, (3, 3), (2, 2))
    dilate(layer, 2)
    plain = nn.Conv2d(6, 6, 3, 1, 2, 2, groups=6)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=0)

"""Reference implementation of MLLA with the published sequence of operations, for benchmarks and tests.

Source: arXiv 2405.16605 and the authors' code. Tokens ``(B, N, C)`` are reshaped to feature maps ``(B, C, H, W)`` and
back around every convolution, RoPE is a complex multiplication, and each step is a separate call.
"""

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models.blocks import Block
from mlla_seg.models.decoders import Upsample
from mlla_seg.models.mixers import LinearAttention
from mlla_seg.models.mlla import Downsample, Stem
from mlla_seg.models.ops import EPSILON, ROPE_BASE


class DefinitionalBlock(nn.Module):
    """Published sequence of operations of a block, with the parameters of a :class:`Block`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        self.rotations: dict[tuple[int, int], Tensor] = {}

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` to the same shape; ``rope`` is unused, as rotations are complex numbers here."""
        own = self.block
        b, height, width, c = x.shape
        x = x.reshape(b, height * width, c)
        x = x + _on_map(own.cpe1, x, height, width)
        shortcut = x
        x = own.norm1(x)
        gate = F.silu(own.gate_proj(x))
        x = F.silu(_on_map(own.conv, own.in_proj(x), height, width))
        x = self.attention(x, height, width)
        x = shortcut + own.out_proj(x * gate)
        x = x + _on_map(own.cpe2, x, height, width)
        x = x + own.mlp(own.norm2(x))
        return x.reshape(b, height, width, c)

    def attention(self, x: Tensor, height: int, width: int) -> Tensor:
        """Linear attention over tokens ``(B, N, C)``, with RoPE from :func:`rotations` and LePE."""
        mixer = self.block.mixer
        assert isinstance(mixer, LinearAttention)
        b, n, c = x.shape
        heads = mixer.num_heads
        qk = mixer.qk(x).reshape(b, n, 2, c).permute(2, 0, 1, 3)
        q, k, v = F.elu(qk[0]) + 1.0, F.elu(qk[1]) + 1.0, x
        if (height, width) not in self.rotations:
            self.rotations = {(height, width): rotations(height, width, c, x.device)}
        turn = self.rotations[height, width]
        q_rotated, k_rotated = (
            torch.view_as_real(torch.view_as_complex(t.float().reshape(b, n, -1, 2)) * turn).flatten(-2).to(t.dtype)
            for t in (q, k)
        )
        q, k, v, q_rotated, k_rotated = (
            t.reshape(b, n, heads, c // heads).permute(0, 2, 1, 3) for t in (q, k, v, q_rotated, k_rotated)
        )
        z = 1 / (q @ k.mean(dim=-2, keepdim=True).transpose(-2, -1) + EPSILON)
        state = (k_rotated.transpose(-2, -1) * n**-0.5) @ (v * n**-0.5)
        y = (q_rotated @ state * z).transpose(1, 2).reshape(b, n, c)
        return y + _on_map(mixer.lepe, x, height, width)


def rotations(height: int, width: int, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Published RoPE table ``(H W, C / 2)`` of unit complex numbers."""
    frequencies = dim // 4
    theta = 1 / (ROPE_BASE ** (torch.arange(frequencies, device=device) / frequencies))
    rows = torch.arange(height, device=device)[:, None, None] * theta
    columns = torch.arange(width, device=device)[None, :, None] * theta
    angles = torch.cat((rows.expand(height, width, -1), columns.expand(height, width, -1)), dim=-1)
    return torch.polar(torch.ones_like(angles), angles).reshape(height * width, -1)


def _on_map(conv: nn.Conv2d, tokens: Tensor, height: int, width: int) -> Tensor:
    """Depth-wise convolution of tokens ``(B, N, C)``, reshaped to ``(B, C, H, W)`` and back."""
    b, _, c = tokens.shape
    x = tokens.reshape(b, height, width, c).permute(0, 3, 1, 2)
    return F.conv2d(x, conv.weight, conv.bias, padding=1, groups=c).flatten(2).permute(0, 2, 1)


def _stem(stem: Stem, x: Tensor) -> tuple[Tensor, Tensor]:
    x = F.relu(stem.conv1(x.contiguous()))
    half = x + stem.conv3(F.relu(stem.conv2(x)))
    return half, stem.conv5(F.relu(stem.conv4(half)))


def _downsample(module: Downsample, x: Tensor) -> Tensor:
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    return module.reduce(F.relu(module.conv(F.relu(module.expand(x)))))


def _upsample(module: Upsample, x: Tensor) -> Tensor:
    x = module.conv(F.relu(module.expand(x.movedim(-1, 1))))
    return module.norm(module.reduce(x).movedim(1, -1))


def definitional(network: nn.Module) -> nn.Module:
    """Copy of a network with the published sequence of operations, without stochastic depth."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, Block):
                module._modules[name] = DefinitionalBlock(child)
        for kind, forward in ((Stem, _stem), (Downsample, _downsample), (Upsample, _upsample)):
            if isinstance(module, kind):
                module.forward = partial(forward, module)  # type: ignore[method-assign,arg-type]
    return network

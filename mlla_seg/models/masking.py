"""Masked encoding: an encoder sees only some patches of its images, as in SparK (arXiv 2301.03580).

Masking the image alone is not enough for convolutions and attention: features would grow into masked patches layer by
layer, batch norms would average over them, and attention would sum over them. So they stay empty through the encoder,
as in a sparse convolution: everything that mixes places reads zeros there, batch norms count visible places only, and
masked places are left out of attention, as if they did not exist. Norms and linear layers work place by place.

Network classes are unaffected: :func:`masked` adds hooks and removes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mlla_seg.models.mixers import DepthwiseConv
from mlla_seg.models.mixers.attention import LinearAttention
from mlla_seg.models.mixers.baseline import Linear
from mlla_seg.models.mixers.controls import Identity, Lepe, LepeMatched
from mlla_seg.models.mixers.nc_ssd import NonCausalSSD
from mlla_seg.models.mixers.selective import SelectiveSSM
from mlla_seg.models.mlla import Downsample, Encoder, MLLAEncoder
from mlla_seg.models.ops import to_channels_first, to_channels_last

ATTENTION: dict[type[nn.Module], Callable[[Any], tuple[nn.Linear, int]]] = {
    LinearAttention: lambda mixer: (mixer.qk, mixer.qk.out_features // 2),
    Linear: lambda mixer: (mixer.qkv, mixer.sizes[0]),
}
"""Mixers with the feature map ELU + 1: their projection to queries, keys and more, and its number of query channels."""
ADDITIVE = (Identity, Lepe, LepeMatched, NonCausalSSD, SelectiveSSM)
"""Mixers to whose sums a token of zeros adds nothing; a scan passes it and forgets as at any other token."""


def why_not(encoder: Encoder) -> str | None:
    """Return why masked patches cannot stay empty through an encoder; None if they can."""
    if not isinstance(encoder, MLLAEncoder):
        return "it is not an MLLA encoder"
    mixers = [module.mixer for module in encoder.modules() if hasattr(module, "mixer")]
    unfit = [type(mixer).__name__ for mixer in mixers if not isinstance(mixer, (*ATTENTION, *ADDITIVE))]
    return f"its mixer {unfit[0]} sums over all places" if unfit else None


def visible_at(visible: Tensor, height: int, width: int) -> Tensor:
    """Return which places of a feature map are visible: those that cover a visible patch, or a part of one.

    Args:
        visible: ``(B, h, w)`` bool, a patch each.
        height: A multiple or a divisor of h.
        width: Likewise of w.

    Returns:
        ``(B, height, width)`` bool.
    """
    for axis, size in ((1, height), (2, width)):
        patches = visible.shape[axis]
        if size >= patches:
            visible = visible.repeat_interleave(size // patches, dim=axis)
        else:
            visible = visible.unflatten(axis, (size, patches // size)).any(dim=axis + 1)
    return visible


def emptied(x: Tensor, visible: Tensor) -> Tensor:
    """Return ``(B, C, H, W)`` with zeros at all but the visible places ``(B, H, W)``, in channels-last memory."""
    return to_channels_first(to_channels_last(x).masked_fill(~visible[..., None], 0))


@contextmanager
def masked(encoder: Encoder, visible: Tensor) -> Iterator[None]:
    """Let an MLLA encoder see only some patches of its images.

    Inside this context its features at visible places do not depend on masked pixels; those at other places have no
    meaning. If all patches are visible, they are those of the plain encoder.

    Args:
        encoder: The encoder, see :func:`why_not`.
        visible: ``(B, h, w)`` bool, true for each patch that is seen, with sides of a power of two up to 32 pixels. A
            coarse place is visible if one of its patches is.
    """
    maps: dict[tuple[int, int], Tensor] = {}
    here = visible  # places of the module that is running

    def at(height: int, width: int) -> Tensor:
        nonlocal here
        if (height, width) not in maps:
            maps[height, width] = visible_at(visible, height, width)
        here = maps[height, width]
        return here

    def empty_map(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]  # (B, C, H, W)
        return (emptied(x, at(*x.shape[2:])),)

    def empty_padded_map(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]  # (B, C, H + 2, W + 2), see Downsample
        own = at(x.shape[2] - 2, x.shape[3] - 2)
        return (emptied(x, F.pad(own, (0, 2, 0, 2), value=True)),)

    def empty_tokens(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *others = inputs  # (B, H, W, C)
        return (x.masked_fill(~at(*x.shape[1:3])[..., None], 0), *others)

    def drop_keys(channels: int, module: nn.Module, inputs: tuple[Any, ...], projected: Tensor) -> Tensor:
        """Set keys at masked places to minus infinity, whose feature is exp(-inf) = 0, so that no sum counts them."""
        channel = torch.arange(projected.shape[-1], device=projected.device) // channels
        return projected.masked_fill(~here.flatten(1)[..., None] & (channel == 1), -torch.inf)

    def gather(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]
        return (x.movedim(1, -1)[at(*x.shape[2:])].T[None, :, :, None],)  # (1, C, visible places, 1)

    def scatter(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x = output.new_zeros(*here.shape, output.shape[1])
        x[here] = output[0, :, :, 0].T
        return x.movedim(-1, 1)

    padded = [module.conv for module in encoder.modules() if isinstance(module, Downsample)]
    handles = [conv.register_forward_pre_hook(empty_padded_map) for conv in padded]
    for module in encoder.modules():
        if isinstance(module, DepthwiseConv):
            handles.append(module.register_forward_pre_hook(empty_tokens))
        elif isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) and module not in padded:
            handles.append(module.register_forward_pre_hook(empty_map))
        elif isinstance(module, _BatchNorm) and module.training:
            handles += [module.register_forward_pre_hook(gather), module.register_forward_hook(scatter)]
        elif isinstance(module, (*ATTENTION, *ADDITIVE)):
            handles.append(module.register_forward_pre_hook(empty_tokens))
        if type(module) in ATTENTION:
            projection, channels = ATTENTION[type(module)](module)
            handles.append(projection.register_forward_hook(partial(drop_keys, channels)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

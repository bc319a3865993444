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
from torch.utils.hooks import RemovableHandle

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
    """Return the reason why masked patches cannot stay empty through an encoder; None if they can."""
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


class _Masking:
    """Hooks that keep masked places of feature maps empty.

    Args:
        encoder: The encoder.
        visible: ``(B, h, w)`` bool, see :func:`masked`.
    """

    def __init__(self, encoder: Encoder, visible: Tensor) -> None:
        self.visible = visible
        self.padded = [module.conv for module in encoder.modules() if isinstance(module, Downsample)]
        """Convolutions whose input is padded, which their :class:`Downsample` does."""
        self.maps: dict[tuple[int, int], Tensor] = {}
        self.here = visible
        """Visible places at the resolution of the module that is running."""

    def at(self, height: int, width: int) -> Tensor:
        """Set and return the visible places of a feature map, ``(B, height, width)`` bool."""
        if (height, width) not in self.maps:
            self.maps[height, width] = visible_at(self.visible, height, width)
        self.here = self.maps[height, width]
        return self.here

    def empty_map(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Empty the input ``(B, C, H, W)`` of a convolution."""
        x = inputs[0]
        return (emptied(x, self.at(*x.shape[2:])),)

    def empty_padded_map(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Empty the input ``(B, C, H + 2, W + 2)`` of the convolution in a :class:`Downsample`."""
        x = inputs[0]
        own = self.at(x.shape[2] - 2, x.shape[3] - 2)
        return (emptied(x, F.pad(own, (0, 2, 0, 2), value=True)),)

    def empty_tokens(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Empty the input ``(B, H, W, C)`` of a depthwise convolution or a mixer."""
        x, *others = inputs
        return (x.masked_fill(~self.at(*x.shape[1:3])[..., None], 0), *others)

    def drop_keys(self, channels: int, module: nn.Module, inputs: tuple[Any, ...], projected: Tensor) -> Tensor:
        """Set keys at masked places to minus infinity, whose feature is exp(-inf) = 0, so that no sum counts them."""
        channel = torch.arange(projected.shape[-1], device=projected.device) // channels
        return projected.masked_fill(~self.here.flatten(1)[..., None] & (channel == 1), -torch.inf)

    def gather(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give a batch norm the visible places alone, ``(1, C, visible places, 1)`` of ``(B, C, H, W)``."""
        x = inputs[0]
        return (x.movedim(1, -1)[self.at(*x.shape[2:])].T[None, :, :, None],)

    def scatter(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Put the output of a batch norm back to its places, ``(B, C, H, W)``."""
        x = output.new_zeros(*self.here.shape, output.shape[1])
        x[self.here] = output[0, :, :, 0].T
        return x.movedim(-1, 1)

    def hook(self, module: nn.Module) -> list[RemovableHandle]:
        """Add the hooks of a module, by what it does with places."""
        if module in self.padded:
            return [module.register_forward_pre_hook(self.empty_padded_map)]
        if isinstance(module, DepthwiseConv):
            return [module.register_forward_pre_hook(self.empty_tokens)]
        if isinstance(module, nn.Conv2d):
            spreads = module.kernel_size != (1, 1)
            return [module.register_forward_pre_hook(self.empty_map)] if spreads else []
        if isinstance(module, _BatchNorm) and module.training:
            return [module.register_forward_pre_hook(self.gather), module.register_forward_hook(self.scatter)]
        if not isinstance(module, (*ATTENTION, *ADDITIVE)):
            return []
        handles = [module.register_forward_pre_hook(self.empty_tokens)]
        if type(module) in ATTENTION:
            projection, channels = ATTENTION[type(module)](module)
            handles.append(projection.register_forward_hook(partial(self.drop_keys, channels)))
        return handles


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
    masking = _Masking(encoder, visible)
    handles = [handle for module in encoder.modules() for handle in masking.hook(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

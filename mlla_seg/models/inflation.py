"""Weights of a network of images as initial weights of the same network of volumes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mlla_seg.errors import InputError, lookup

WAYS = {"middle": "all in the middle slice", "mean": "divided over the slices"}
"""Ways to make a kernel of a volume from that of an image."""


def inflated(weights: Mapping[str, Tensor], network: nn.Module, how: str = "middle") -> dict[str, Tensor]:
    """Return a state dict for a network of volumes, made from that of the same network of images.

    Use: ``volumes.load_state_dict(inflated(images.state_dict(), volumes))``.

    Of a volume whose slices are all the same image, every layer then gives in each slice what it gives for the image;
    with ``mean`` this holds away from the first and last slices, and only without a mixer that sees all slices. Sums
    over tokens are means, which do not depend on the number of slices. The one exception are mixers that rotate queries
    and keys, such as ``linear_attention``: on three axes RoPE has other frequencies. A network with RoPE starts from
    the weights of the image's network but does not give its output.

    Args:
        weights: State dict of a network of images, such as ``load_segmenter("x.ckpt").state_dict()``.
        network: Network of volumes with the same parts and the same strides within slices.
        how: ``middle`` puts kernels into the middle slice, ``mean`` divides them over the slices (arXiv 1705.07750). A
            transposed convolution that doubles the slices repeats each slice.

    Raises:
        InputError: A weight is missing, or of another network than ``network``.
    """
    lookup(WAYS, how, "way to inflate weights")
    result = {}
    for name, target in network.state_dict().items():
        if name not in weights:
            raise InputError(f"The weights lack {name} of this network: inflate those of the same network of images.")
        module = network.get_submodule(name.rpartition(".")[0])
        value = _inflated(weights[name], target, module, how)
        if value.shape != target.shape:
            raise InputError(
                f"{name} of the weights is {tuple(weights[name].shape)}, which does not give {tuple(target.shape)}: "
                "inflate the weights of the same network of images, with the same strides within slices."
            )
        result[name] = value.clone()
    return result


def _inflated(value: Tensor, target: Tensor, module: nn.Module, how: str) -> Tensor:
    """Return a weight for one more axis, if it needs it."""
    if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)) and value.ndim == target.ndim - 1 == 4:
        shares = torch.zeros(target.shape[2], dtype=value.dtype, device=value.device)
        if isinstance(module, nn.ConvTranspose3d) and module.stride[0] == 2:
            shares[1:] = 1.0  # slice i to 2 i and 2 i + 1
        elif how == "middle":
            shares[len(shares) // 2] = 1.0
        else:
            shares[:] = 1.0 / len(shares)
        return value[:, :, None] * shares[:, None, None]
    if isinstance(module, nn.Linear) and value.shape[0] < target.shape[0] and value.shape[1:] == target.shape[1:]:
        copies = target.shape[0] // value.shape[0]  # an expansion, whose outputs for each new slice come first
        return value.repeat(copies, *[1] * (value.ndim - 1))
    return value

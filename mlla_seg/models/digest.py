"""Digest of a network, by which two networks can be compared."""

from __future__ import annotations

import hashlib
from itertools import chain

import torch
from torch import nn

PLAIN = (bool, int, float, str, bytes, type(None))


def network_digest(network: nn.Module) -> str:
    """Return a SHA-256 of all that a network computes with: weights, buffers, modules, and their settings.

    Two files with the same network have the same digest, whatever else they hold, such as the state of an optimiser.
    """
    digest = hashlib.sha256()
    for name, module in network.named_modules():
        settings = {key: value for key, value in sorted(vars(module).items()) if _plain(value) and key != "training"}
        digest.update(f"{name} {type(module).__qualname__} {settings}\n".encode())
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(value: object) -> bool:
    """Return whether a value is a number, a text, or a tuple or list of them, whose text is always the same."""
    return isinstance(value, PLAIN) or (isinstance(value, (tuple, list)) and all(map(_plain, value)))

"""Preparation of networks for inference: the same results as in training, in less time and memory."""

import copy
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from mlla_seg.errors import InputError, lookup
from mlla_seg.inference.compile_auto import compile_if_worthwhile
from mlla_seg.inference.optimize_compile import compile_segmenters, run_uncompiled
from mlla_seg.inference.optimize_strips import in_strips

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Autocast precisions by name; attention sums and returned logits are always float32."""


def device_named(name: str, local: int | None = None) -> str:
    """Return the name of a device; ``auto`` is a GPU if available, otherwise the CPU.

    Args:
        name: Its name, or ``auto``.
        local: Number of this process among several on a machine, which take its GPUs in turn.

    Raises:
        InputError: The device is not available.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if name == "cuda" and local is not None and (count := torch.cuda.device_count()):
        name = f"cuda:{local % count}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise InputError(f"Device {name!r} cannot be used here: {reason}. cpu is always available.") from error
    return name


def for_inference(
    network: nn.Module,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    compile: bool | str = False,
    compile_cache: str | Path | None = None,
) -> nn.Module:
    """Return a copy for inference, with batch norms folded into convolutions and, on CPUs, strip-wise computation.

    Args:
        network: Maps ``(B, C, H, W)`` to logits ``(B, K, H, W)``.
        device: Device of the copy.
        precision: A key of ``PRECISIONS``.
        compile: Compile at the first image, for images of that size: faster, but uses more memory than strips; or
            ``auto``, see :mod:`mlla_seg.inference.compile_auto`.
        compile_cache: Folder where compiled code is kept, see :mod:`mlla_seg.inference.compile_cache`.

    Raises:
        InputError: Unknown precision or ``compile``, no compiler, or a folder that others can write to.
    """
    dtype = lookup(PRECISIONS, precision, "precision")
    if not isinstance(compile, bool) and compile != "auto":
        raise InputError(f'compile must be True, False or "auto", got {compile!r}.')
    network = copy.deepcopy(network).to(device).eval().requires_grad_(False)
    fold_batch_norms(network)
    for module in network.modules():
        if dtype is not None and isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            module.to(dtype)  # cast once, not for every image
    if compile == "auto":
        compile_if_worthwhile(network, device, compile_cache)
    elif compile:
        compile_segmenters(network, compile_cache)
    if torch.device(device).type == "cpu":
        in_strips(network)
    return network if dtype is None else Autocast(network, dtype)


def need_less_memory(network: nn.Module) -> bool:
    """Make a network from :func:`for_inference` compute strip by strip, uncompiled, in place.

    Returns:
        Whether it did otherwise before.
    """
    compiled = run_uncompiled(network)
    return in_strips(network) or compiled


class Autocast(nn.Module):
    """Network run under autocast, with float32 input and output.

    Args:
        network: Maps ``(B, C, H, W)`` to logits ``(B, K, H, W)``.
        dtype: ``torch.bfloat16`` or ``torch.float16``.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, self.dtype):
            return self.network(x).float()


def fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch norm that follows a convolution in a ``Sequential`` into it, in place; for evaluation only."""
    for module in list(network.modules()):
        if not isinstance(module, nn.Sequential):
            continue
        names = list(module._modules)
        for before, name in pairwise(names):
            norm = module._modules[name]
            if not isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm3d)):
                continue
            parent, last = module, before
            while isinstance(inner := parent._modules[last], nn.Sequential) and len(inner) > 0:
                parent, last = inner, list(inner._modules)[-1]
            if isinstance(inner, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
                transposed = isinstance(inner, (nn.ConvTranspose2d, nn.ConvTranspose3d))
                parent._modules[last] = fuse_conv_bn_eval(inner, norm, transposed)
                module._modules[name] = nn.Identity()

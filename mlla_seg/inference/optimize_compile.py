"""Compilation of networks for one image size: ``predict --compile true``; see
:mod:`mlla_seg.inference.compile_auto` for ``--compile auto``.

On CPUs the code is made once and kept, see :mod:`mlla_seg.inference.compile_cache`; on GPUs torch.compile makes it at
each start, with torch's own cache in the same folder.

The compiler fuses activations and sums into the preceding convolution and packs its weights once for the CPU, but does
neither for float32 linear layers. On CPUs, :func:`as_convolutions` therefore computes them as 1 x 1 convolutions
followed by their activations. It overrides methods of instances; network classes are unaffected.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.errors import InputError
from mlla_seg.inference.compile_cache import Code, default_folder, in_words, kept_code, require_private
from mlla_seg.models.blocks import Block
from mlla_seg.models.decoders import Upsample
from mlla_seg.models.mixers import DepthwiseConv, scanning
from mlla_seg.models.ops import at_least_float32, full_precision
from mlla_seg.models.segmenter import Segmenter
from mlla_seg.progress import note, quiet

PIXELS = 512**2
"""Maximum number of pixels per compiled call on CPUs, unless a single image is larger."""


def compile_segmenters(network: nn.Module, cache: str | Path | None = None) -> None:
    """Make each segmenter in a network, or else the whole network, compile itself at its first image, in place.

    Args:
        network: The network, in evaluation mode, on the device where it will run.
        cache: Folder of code that is kept; by default that of the user.

    Raises:
        InputError: No C++ compiler was found, a mixer visits pixels in turn, others can write to the folder, or the
            network sees volumes, on a CPU.
    """
    require_compiler("--compile")
    folder = private_folder(cache)
    require_few_steps(network)
    for part in segmenters(network):
        if len(getattr(part, "strides", ())) == 3 and next(part.parameters()).device.type == "cpu":
            raise InputError(
                "--compile on CPUs is for networks of slices and images, but this one sees volumes: run without."
            )
        part.forward = CompiledForward(copy.deepcopy(part), part.forward, folder)


def segmenters(network: nn.Module) -> list[Any]:
    """Return the parts of a network that are compiled, each by itself."""
    return [module for module in network.modules() if isinstance(module, Segmenter)] or [network]


def private_folder(cache: str | Path | None) -> Path:
    """Return the folder of code that is kept, by default that of the user, after :func:`require_private`."""
    folder = default_folder() if cache is None else Path(cache).expanduser().absolute()
    require_private(folder)
    return folder


def require_few_steps(network: nn.Module) -> None:
    """Raise an InputError if a mixer visits pixels in turn, which the compiler would write out one by one."""
    if found := scanning(network):
        raise InputError(f"Token mixer {found[0]} visits pixels in turn, which takes too long to compile: run without.")


def run_uncompiled(network: nn.Module) -> bool:
    """Undo :func:`compile_segmenters`, in place, and return whether there was anything to undo."""
    compiled = [module for module in network.modules() if isinstance(vars(module).get("forward"), CompiledForward)]
    for module in compiled:
        module.forward = vars(module)["forward"].otherwise
    return bool(compiled)


def require_compiler(option: str) -> None:
    """Raise an InputError if there is no C++ compiler, which an option needs."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(f"{option} needs a C++ compiler; {compiler} was not found. Install one, or set CXX=...")


class CompiledForward:
    """Compiled network for images of the first size, with the original network as fallback for others.

    Batches are split to the size of the first one, or on CPUs, where this costs no time, to smaller parts. A remainder
    runs uncompiled.

    Args:
        network: Network to compile, which may be changed; maps ``(B, C, H, W)`` to logits ``(B, K, H, W)``.
        otherwise: Fallback for other sizes.
        folder: Folder of code that is kept.
    """

    def __init__(self, network: nn.Module, otherwise: Callable[[Tensor], Tensor], folder: Path) -> None:
        self.network: nn.Module | None = network  # until it is compiled
        self.otherwise = otherwise
        self.folder = folder
        self.shape: tuple[int, ...] = ()
        self.told = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.network is not None:
            first = contiguous(equal_part(x))
            self._use(self._compiled(self.network, first), first)
        pieces = x.split(self.shape[0])
        return torch.cat([self._run(piece) for piece in pieces]) if len(pieces) > 1 else self._run(x)

    def _use(self, code: Code, first: Tensor) -> None:
        self.code, self.shape, self.network = code, tuple(first.shape), None

    def _run(self, x: Tensor) -> Tensor:
        if tuple(x.shape) == self.shape:
            return self.code(contiguous(x))
        if x.shape[1:] != self.shape[1:] and not self.told:
            self.told = True
            note("note: images of other sizes run uncompiled.")
        return self.otherwise(x)

    def _compiled(self, network: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
        if x.device.type != "cpu":
            return compiled_now(network, x, self.folder)
        as_convolutions(network)
        return kept_code(network, x, self.otherwise, self.folder)


def compiled_now(network: nn.Module, x: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    """Return a network compiled by torch.compile for images like ``x``, for other devices than CPUs.

    Raises:
        InputError: It cannot be compiled.
    """
    import torch._dynamo
    import torch._inductor

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "torch"))
    note(f"Compiling for {in_words(x)}, which takes about a minute.")
    code = torch.compile(network, dynamic=False)

    def run(image: Tensor) -> Tensor:
        # Compiler settings, read at the first call. Beyond the limit, which counts all networks of a process, further
        # networks would silently run uncompiled.
        dynamo = torch._dynamo.config.patch(recompile_limit=256)
        inductor = torch._inductor.config.patch(freezing=True)
        with torch.inference_mode(), dynamo, inductor, quiet():
            return code(image)

    try:
        run(x)
    except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"This network cannot be compiled here; run without --compile: {reason}") from error
    return run


def contiguous(x: Tensor) -> Tensor:
    """Return a copy with the strides that the code was compiled for."""
    return x.clone(memory_format=torch.contiguous_format)


def equal_part(x: Tensor) -> Tensor:
    """Return the first images of a batch, as many as one compiled call takes."""
    if x.device.type != "cpu":
        return x
    most = max(1, min(len(x), PIXELS // (x.shape[-2] * x.shape[-1])))
    return x[: next(n for n in range(most, 0, -1) if len(x) % n == 0)]


def as_convolutions(network: nn.Module) -> None:
    """Make a network compute linear layers as convolutions, in place; for evaluation only, outputs are unchanged."""
    for module in network.modules():
        for kind, method in PARTS.items():
            if isinstance(module, kind):
                module.forward = partial(method, module)


def _pointwise(linear: Any, x: Tensor) -> Tensor:
    """Apply a linear layer to the channels of ``(B, C, H, W)``."""
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)


def _linear(linear: nn.Linear, x: Tensor) -> Tensor:
    if x.ndim == 4:
        return _pointwise(linear, x.movedim(-1, 1)).movedim(1, -1)
    rows = x.reshape(1, 1, -1, x.shape[-1]).movedim(-1, 1)
    return _pointwise(linear, rows).movedim(1, -1).view(*x.shape[:-1], -1)


def _block(block: Block, x: Tensor, rope: Tensor) -> Tensor:
    x = x.movedim(-1, 1)
    x = x + _depthwise(block.cpe1, x)
    u = _normed(block.norm1, x)
    gate = F.silu(_pointwise(block.gate_proj, u))
    u = F.silu(_depthwise(block.conv, _pointwise(block.in_proj, u)))
    u = block.mixer(u.movedim(1, -1), rope).movedim(-1, 1)
    x = x + _pointwise(block.out_proj, u * gate)
    x = x + _depthwise(block.cpe2, x)
    u = F.gelu(_pointwise(block.mlp[0], _normed(block.norm2, x)))
    x = x + _pointwise(block.mlp[2], u)
    return x.movedim(1, -1)


def _depthwise(conv: DepthwiseConv, x: Tensor) -> Tensor:
    """Apply a depthwise convolution to ``(B, C, H, W)``."""
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return norm(x.movedim(1, -1)).movedim(-1, 1)


def _upsample(module: Upsample, x: Tensor) -> Tensor:
    x = F.relu(module.expand(x.movedim(-1, 1)))
    with full_precision(x.device):  # CPUs have no fast half-precision version
        x = module.conv(at_least_float32(x))
    return module.norm(module.reduce(x).movedim(1, -1))


PARTS: dict[type[nn.Module], Callable[..., Any]] = {nn.Linear: _linear, Block: _block, Upsample: _upsample}
"""Replacement ``forward`` methods by module class."""

"""Compilation where it saves time: ``predict --compile auto``.

Code that is kept from an earlier time is used. Otherwise the first images run uncompiled. Once the work that is left
is known to take more than :data:`WORTH` seconds, the network is compiled as with ``--compile true``, and the code is
used for the other images. The callers that know the images tell how much is left, see :func:`expect`. If another
process compiles the same network, this one goes on uncompiled, and uses the code when it is there.

The network waits for the compiler. Beside it, in a process of its own, the compiler would take the same processor time
from a network that uses all cores, and could at most save these two minutes of a job of more than twenty.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mlla_seg.errors import InputError
from mlla_seg.inference.compile_cache import found_code, kept_code, package_name
from mlla_seg.inference.memory import is_out_of_memory
from mlla_seg.inference.optimize_compile import (
    PIXELS,
    CompiledForward,
    as_convolutions,
    contiguous,
    equal_part,
    private_folder,
    require_compiler,
    require_few_steps,
    segmenters,
)
from mlla_seg.locks import Held
from mlla_seg.progress import note, note_once

SECONDS = 120
"""Time of the compiler, at the upper end of what was measured; see docs/speed.md."""
GAIN = 0.1
"""Part of the time that compiled code saves, at the lower end of what was measured."""
WORTH = SECONDS / GAIN
"""Seconds of uncompiled work from which on compiling saves time."""
MEASURED = 10
"""Seconds of work after which its pace is known well enough to decide for the compiler."""


def compile_if_worthwhile(network: nn.Module, device: torch.device | str, cache: str | Path | None = None) -> None:
    """Make each segmenter in a network, or else the whole network, compile itself if that saves time, in place.

    What stands in the way is noted, and the network runs uncompiled.

    Args:
        network: The network, in evaluation mode, on the device where it will run.
        device: That device.
        cache: Folder of code that is kept; by default that of the user.
    """
    if torch.device(device).type != "cpu":
        _not_compiled("it keeps code for CPUs only; --compile true compiles at each start")
        return
    try:
        require_few_steps(network)
        folder = private_folder(cache)
    except InputError as error:
        _not_compiled(str(error))
        return
    for part in segmenters(network):
        part.forward = CompiledIfWorthwhile(copy.deepcopy(part), part.forward, folder)


def expect(network: nn.Module, left: float) -> None:
    """Tell a network how much work is left.

    Args:
        network: A network, whether from :func:`compile_if_worthwhile` or not.
        left: The work that is left, as a multiple of the work that the network has done.
    """
    for module in network.modules():
        if isinstance(forward := vars(module).get("forward"), CompiledIfWorthwhile):
            forward.expect(left)


class CompiledIfWorthwhile(CompiledForward):
    """Network that runs uncompiled until there is code for it, or compiling saves time.

    Args:
        network: Network to compile, which may be changed; maps ``(B, C, H, W)`` to logits ``(B, K, H, W)``.
        otherwise: The network uncompiled.
        folder: Folder of code that is kept.
    """

    def __init__(self, network: nn.Module, otherwise: Callable[[Tensor], Tensor], folder: Path) -> None:
        super().__init__(network, otherwise, folder)
        self.path: Path | None = None
        """Package for images of the first size, from the first image on."""
        self.first: tuple[int, ...] = ()
        """Shape of the images that are compiled for."""
        self.spent = 0.0
        """Seconds of work on images of this size."""
        self.left = 0.0
        """Seconds that are left of it, as far as known."""
        self.by_another = False
        """Whether another process compiles."""
        self.said = False
        """Whether it was said that compiling does not save time."""

    def __call__(self, x: Tensor) -> Tensor:
        if self.network is not None:
            self._seek(self.network, contiguous(equal_part(x)))
        if self.shape:  # there is code
            return super().__call__(x)
        started = time.perf_counter()
        logits = self.otherwise(x)
        if x.shape[1:] == self.first[1:]:
            self.spent += time.perf_counter() - started
        return logits

    def expect(self, left: float) -> None:
        """Take the work that is left, as a multiple of the work done."""
        self.left = self.spent * left
        if self.network is not None and not (self.by_another or self.said or self.left > WORTH):
            self.said = True
            whole = _in_words(self.spent + self.left)
            _not_compiled(f"the job takes about {whole}, and compiling saves time from {_in_words(WORTH)} on")

    def _seek(self, network: nn.Module, first: Tensor) -> None:
        """Use code if there is some, or if it saves time to make it."""
        if self.path is None:
            self._look(network, first)
        elif tuple(first.shape) != self.first:
            return
        elif self.by_another:
            self._take_over(self.path, first)
        elif self.left > WORTH and self.spent >= MEASURED:
            self._make(network, first)

    def _look(self, network: nn.Module, first: Tensor) -> None:
        """Use code of an earlier process, or note what stands in the way of making it."""
        self.first = tuple(first.shape)
        self.path = self.folder / package_name(network, first)
        if self.path.exists():
            if (code := found_code(self.path, self.otherwise, first)) is not None:
                self._use(code, first)
                return
            note(f"note: {self.path} is damaged, or not made for this network, so it is not used.")
        if (reason := obstacle(first)) is not None:
            self._give_up(reason)

    def _make(self, network: nn.Module, first: Tensor) -> None:
        note_once(f"note: --compile auto compiles, as about {_in_words(self.left)} of work are left.")
        as_convolutions(network)
        try:
            self._use(kept_code(network, first, self.otherwise, self.folder, wait=0), first)
        except Held as holder:
            self.by_another = True
            note_once(f"note: {holder} compiles the same network; going on uncompiled until its code is there.")
        except Exception as error:  # the system's, torch's or the compiler's; the network itself runs
            if not isinstance(error, (InputError, OSError)) and not is_out_of_memory(error):
                raise
            self._give_up(" ".join(str(error).split()))

    def _take_over(self, path: Path, first: Tensor) -> None:
        """Use the code of another process, if it is there."""
        if not path.exists():
            return
        if (code := found_code(path, self.otherwise, first)) is not None:
            self._use(code, first)
        else:
            self._give_up("the code of another process gives other logits")

    def _give_up(self, reason: str) -> None:
        self.network = None
        _not_compiled(reason)


def obstacle(x: Tensor) -> str | None:
    """Return why code is not made for images like ``x``, or None."""
    if x.ndim != 4:
        return "networks of volumes were not measured"
    if x.shape[-2] * x.shape[-1] > PIXELS:
        return f"it may save nothing for images of more than {PIXELS} pixels; --compile true does nevertheless"
    try:
        require_compiler("it")
    except InputError as error:
        return str(error)
    return None


def _not_compiled(reason: str) -> None:
    note_once(f"note: --compile auto does not compile: {reason.removesuffix('.')}.")


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"

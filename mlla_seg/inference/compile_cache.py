"""Code of compiled networks, kept between processes: the second ``predict --compile true`` starts in seconds.

Torch's own cache cannot keep code whose weights are packed for the processor, so the network is compiled ahead of time
(AOTInductor) to a package: machine code and weights in one file. Its name is a digest of everything that the code was
made for, see :func:`package_name`. Before a package is used, its checksums are compared, and its logits for the first
image with those of the network; one that is damaged or gives others is made again.

Loading a package runs its code, so it must lie in a folder that no other user can write to.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor, nn

from mlla_seg import locks
from mlla_seg._version import __version__
from mlla_seg.atomic import replace, unfinished_folder
from mlla_seg.errors import InputError
from mlla_seg.inference.memory import is_out_of_memory
from mlla_seg.models.digest import network_digest
from mlla_seg.progress import note, quiet

Code = Callable[[Tensor], Tensor]
"""Maps images of one size to logits."""
SUFFIX = ".pt2"
UNUSED_DAYS = 30
"""Days after which a package that was not used is removed, when another is written."""
WITHIN = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}
"""Largest relative difference from the logits of the network, by autocast precision."""
SETTINGS = {
    "freezing": True,  # weights are constants, packed for the processor
    "aot_inductor.precompile_headers": False,  # which pays for many networks only
}
"""Settings of torch's compiler."""


def default_folder() -> Path:
    """Return the folder for packages of this user."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mlla_seg" / "compiled"


def kept_code(network: nn.Module, x: Tensor, check: Code, folder: Path, wait: float = math.inf) -> Code:
    """Return the compiled code of a network for images like ``x`` on CPUs, made now or by an earlier process.

    Args:
        network: Network to compile, in evaluation mode; maps ``(B, C, H, W)`` to logits ``(B, K, H, W)``.
        x: The first images; autocast is as it will be for all of them.
        check: The network uncompiled, whose logits for ``x`` the code must give.
        folder: Folder of packages; created if absent.
        wait: Seconds to wait for another process that compiles the same network.

    Raises:
        Held: Another process still compiles it.
        InputError: Others can write to the folder, or the network cannot be compiled.
    """
    require_private(folder)
    path = folder / package_name(network, x)
    images = in_words(x)
    with locks.held(path, str, wait, lambda holder: f"Waiting for {holder}, which compiles the same network."):
        if path.exists():
            if (code := found_code(path, check, x)) is not None:
                return code
            note(f"note: {path} is damaged, or not made for this network, so it is compiled again.")
            path.unlink(missing_ok=True)  # others that wait for the code shall not take this for it
        note(f"Compiling for {images}, which takes one to two minutes; the code is kept in {folder}.")
        compile_to(path, network, x)
        remove_unused(folder)
        code = loaded(path)
        if code is None or not agrees(code, check, x):
            path.unlink()
            raise InputError("This network gives other logits when it is compiled here; run without --compile.")
        return code


def found_code(path: Path, check: Code, x: Tensor) -> Code | None:
    """Return the code of a package, with a note, or None if it is damaged or not that of the network; see above."""
    if (code := loaded(path)) is None or not agrees(code, check, x):
        return None
    note(f"Using code that was compiled before for {in_words(x)}: {path}")
    with suppress(OSError):  # another process may be replacing it
        os.utime(path)
    return code


def in_words(x: Tensor) -> str:
    """Describe a batch ``(B, C, *spatial)``."""
    return f"images of {' x '.join(map(str, x.shape[2:]))} pixels, {len(x)} at a time"


def require_private(folder: Path) -> None:
    """Create a folder if it is absent, and check that only this user can write to it.

    Raises:
        InputError: Others can, it belongs to someone else, or it cannot be created.
    """
    other = "Name another folder with --compile_cache."
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise InputError(f"{folder}: compiled code cannot be kept here: {error.strerror}. {other}") from error
    if os.name != "posix":
        return
    if status.st_uid != os.getuid():
        raise InputError(f"{folder}: belongs to another user, so code from it is not run. {other}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InputError(
            f"{folder}: others can write to it, so code from it is not run. Run chmod go-w {folder}, or name another "
            "folder with --compile_cache."
        )


def package_name(network: nn.Module, x: Tensor) -> str:
    """Return the file name of the code of a network for images like ``x``, a digest of all that the code depends on."""
    made_for: dict[str, Any] = {
        "network": network_digest(network),
        "shape": list(x.shape),
        "precision": str(precision_now()),
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "torch": torch.__version__,
        "mlla_seg": __version__,
    }
    return hashlib.sha256(json.dumps(made_for).encode()).hexdigest()[:32] + SUFFIX


def processor() -> str:
    """Return what tells apart processors that run different machine code: their model and instructions."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return f"{platform.processor()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def precision_now() -> torch.dtype:
    """Return the precision of autocast on CPUs, or float32."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def compile_to(path: Path, network: nn.Module, x: Tensor) -> None:
    """Compile a network for images like ``x``, and write its package.

    Raises:
        InputError: It cannot be compiled.
    """
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    example = torch.zeros(x.shape, dtype=x.dtype)
    with unfinished_folder(path) as folder:
        try:
            # Intermediate files, which hold the weights too, are removed with the folder.
            with torch.inference_mode(False), torch.no_grad(), quiet(), fresh_cache(dir=str(folder)):
                program = torch.export.export(network, (example,))
                unfinished = folder / path.name
                aoti_compile_and_package(program, package_path=str(unfinished), inductor_configs=SETTINGS)
        except Exception as error:  # exporter and compiler raise errors of many types
            if is_out_of_memory(error) or isinstance(error, OSError):
                raise
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise InputError(f"This network cannot be compiled here; run without --compile: {reason}") from error
        replace({unfinished: path})


def loaded(path: Path) -> Code | None:
    """Return the code of a package, or None if the file is damaged."""
    try:
        with ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        # As torch._inductor.aoti_load_package does, but without the compiler, whose import takes seconds.
        package = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    except (BadZipFile, RuntimeError, OSError, ValueError, NotImplementedError, EOFError):
        return None
    return lambda x: package.run([x])[0]


def agrees(code: Code, check: Code, x: Tensor) -> bool:
    """Return whether compiled code gives the logits of the network, within rounding."""
    try:
        found = code(x).float().nan_to_num()
    except RuntimeError:  # such as for images of another size
        return False
    expected = check(x).float().nan_to_num()
    if found.shape != expected.shape:
        return False
    return bool((found - expected).norm() <= WITHIN[precision_now()] * expected.norm() + 1e-4)


def remove_unused(folder: Path) -> None:
    """Remove packages that were not used for ``UNUSED_DAYS``."""
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError):  # another process may be removing it
            if time.time() - path.stat().st_mtime > UNUSED_DAYS * 24 * 3600:
                path.unlink()

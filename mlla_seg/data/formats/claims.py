"""What a header claims, compared with what its file can hold and with the memory that is free, before any is allocated.

A header of a few bytes can claim an array of any size. Readers pass its shape to :func:`require_room` first, so that a
damaged or hostile file is refused in one line instead of filling the memory of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mlla_seg.disk_space import in_bytes
from mlla_seg.errors import InputError

DEFLATE = 1032
"""Times that gzip, zip and PNG can shrink data at most, by the definition of their method."""
ANY = 100_000
"""Times that images of a single colour or without data are smaller than their pixels at most, in any usual format."""
GROUPS = Path("/sys/fs/cgroup")


def require_room(
    path: object, shape: Sequence[int], itemsize: int, held: int | None = None, most: float = 1, whole: bool = True
) -> None:
    """Check what a header claims before an array is made of it.

    Args:
        path: The file, or what else the claim is about, for messages.
        shape: Shape of the array that the header claims.
        itemsize: Bytes of one of its values.
        held: Bytes in which the file holds its values, if they are known.
        most: Bytes of values that one of these may stand for: 1 where they are stored as they are.
        whole: Whether the array must fit into memory, as it is not read in parts.

    Raises:
        InputError: The claim is larger than the file can hold or than the memory that is free, or it is negative.
    """
    said = " x ".join(map(str, shape[:8])) + (" x ..." if len(shape) > 8 else "")
    if any(size < 0 for size in shape):
        raise InputError(f"{path}: its header claims a size of {said}. Repair it, or get the file again.")
    claimed = math.prod(map(int, shape)) * itemsize
    said += f" values of {itemsize} byte{'s' if itemsize > 1 else ''} ({in_bytes(claimed)})"
    stored = "" if held is None else f", and its file has {in_bytes(held)}"
    if held is not None and claimed > held * most:
        raise InputError(
            f"{path}: its header claims {said}, which "
            f"{in_bytes(held)} of file cannot hold. Is it complete? Copy or download it again."
        )
    if whole and claimed > (free := free_memory()):
        raise InputError(
            f"{path}: its header claims {said}{stored}; "
            f"{in_bytes(free)} of memory are free. If that is its true size, cut it into parts."
        )


def free_memory() -> float:
    """Return the bytes that this process can still allocate: by the machine, its control group and its own limit."""
    return min(_machine(), _group(), _own_limit())


def _machine() -> float:
    """Return the memory of the machine that is free or only caches files; infinite where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), math.inf)


def _group() -> float:
    """Return what a container may still allocate, infinite without a limit; what only caches files counts as free."""
    try:
        most = (GROUPS / "memory.max").read_text().strip()
        used = int((GROUPS / "memory.current").read_text())
        kept = dict(line.split() for line in (GROUPS / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return math.inf
    return math.inf if most == "max" else max(0.0, float(most) - used + int(kept.get("file", 0)))


def _own_limit() -> float:
    """Return what the limit of this process, such as that of ``ulimit -v``, leaves of its address space."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):  # other systems
        return math.inf
    return math.inf if limit == resource.RLIM_INFINITY else max(0.0, limit - pages * resource.getpagesize())

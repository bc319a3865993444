"""Full disks: found before writing where possible, recognised whatever library meets them, told in one line.

* :func:`full_disk_told` turns the error of a full disk, from any library, into an :class:`InputError`. Writers need it
  only for files they write in place; :mod:`mlla_seg.atomic` uses it for all others.
* :func:`reserve` and :func:`reserved_array` take the space of a file before it is written. Memory-mapped files must be
  reserved: writing to a page that the disk has no room for kills the process (SIGBUS).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlla_seg.errors import InputError

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than its file system or ulimit -f allows",
}
"""What is said for each error of the system; others are none of a full disk."""
WORDS = {
    errno.ENOSPC: re.compile(r"no space left on device|errno = 28\b|disk is full|disk full", re.IGNORECASE),
    errno.EDQUOT: re.compile(r"disk quota exceeded", re.IGNORECASE),
    errno.EFBIG: re.compile(r"\bfile too large", re.IGNORECASE),
}
"""How libraries that do not pass the system's error on put it."""
PROBE = 2**16
"""Bytes that a disk must still take for an error without any reason to have another one."""
AGAIN = "Free some space, then run the same command again."


class NoSpace(OSError):
    """The disk has no room for a file whose size is known."""

    def __init__(self, code: int, path: Path, needed: int) -> None:
        super().__init__(code, os.strerror(code), str(path))
        self.needed = needed


@contextmanager
def full_disk_told(path: Path, advice: str = AGAIN, parts: Sequence[Path] | None = None) -> Iterator[None]:
    """Raise an InputError for the error of a full disk, and let all other errors pass.

    Args:
        path: File or folder that is written, for the message.
        advice: What the user can do.
        parts: Unfinished files and folders. They are removed on any error, as what they hold is worth nothing.

    Raises:
        InputError: The disk is full, the quota used up, or the file too large. Says where, and how much is missing.
    """
    try:
        yield
    except BaseException as error:
        unfinished = parts or []
        written = sum(map(_size, unfinished if parts is not None else [path]))
        found = None if isinstance(error, InputError) or not isinstance(error, Exception) else _found(error, path)
        for part in unfinished:
            _remove(part)
        if found is None:
            raise
        kept = f" The {path.name} before is kept." if parts is not None and path.is_file() else ""
        raise InputError(f"{path}: {_told(*found, error, written)}.{kept} {advice}") from error


def reserve(file: int, path: Path, size: int) -> None:
    """Reserve the space of an open file, so that a full disk is found before anything is written.

    Raises:
        NoSpace: The disk has no room. Where a file system cannot reserve, the free space is compared.
    """
    if size == 0:
        return
    try:
        os.posix_fallocate(file, 0, size)
    except (OSError, AttributeError) as error:  # not every system has it
        code = getattr(error, "errno", None)
        if code in REASONS:
            os.ftruncate(file, 0)
            raise NoSpace(code, path, size) from error
        held = 512 * getattr(os.fstat(file), "st_blocks", 0)
        if size - held > shutil.disk_usage(path.parent).free:
            raise NoSpace(errno.ENOSPC, path, size) from error


def reserved_array(path: Path, dtype: Any, shape: Sequence[int]) -> Any:
    """Create an ``.npy`` file of zeros whose space is reserved, and return it as a memory-mapped array.

    ``flush()`` of the array waits for the disk. A file that finds no room is removed.

    Raises:
        NoSpace: The disk has no room for the array.
    """
    from numpy.lib.format import open_memmap

    try:
        array = open_memmap(path, "w+", dtype, tuple(shape))  # sparse up to here
        with path.open("rb+") as file:
            reserve(file.fileno(), path, os.fstat(file.fileno()).st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno in REASONS and not isinstance(error, NoSpace):
            raise NoSpace(error.errno, path, _bytes(dtype, shape)) from error
        raise
    return array


def told(error: Exception) -> str | None:
    """Return what is to be said of a full disk that nobody has told; None for other errors."""
    found = _found(error, None)
    return None if found is None else f"{_told(*found, error, 0)}. {AGAIN}"


def in_bytes(count: float) -> str:
    """Return a number of bytes in words, such as ``4.0 MB``."""
    for unit, size in (("EB", 1e18), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= 0.1 * size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB" if count >= 1000 else f"{count:.0f} bytes"


def _told(code: int, folder: Path, error: BaseException, written: int) -> str:
    """Return reason, needed and free space; once unfinished files are removed, this is what the user has."""
    known = next((link.needed for link in _chain(error) if isinstance(link, NoSpace)), 0)
    needed = f"{'' if known else 'more than '}{in_bytes(known + written)} are needed, " if known + written else ""
    usage = os.statvfs(folder) if hasattr(os, "statvfs") else None
    if code == errno.ENOSPC and usage and usage.f_files and not usage.f_favail:
        return f"the disk takes no more files: all {usage.f_files} inodes of {folder} are in use"
    return f"{REASONS[code]}: {needed}{in_bytes(shutil.disk_usage(folder).free)} are free in {folder}"


def _found(error: BaseException, path: Path | None) -> tuple[int, Path] | None:
    """Return the reason and the folder that is full, if an error is due to one."""
    named = [Path(str(link.filename)) for link in _chain(error) if isinstance(link, OSError) and link.filename]
    places = [_folder(place) for place in ([path] if path else []) + named + [Path(tempfile.gettempdir()), Path()]]
    code = next((code for link in _chain(error) if (code := _code(link))), None)
    if code is not None:
        return code, next((folder for folder in places if not _takes_more(folder)), places[0])
    if path is None or isinstance(error, ImportError | MemoryError) or _takes_more(places[0]):
        return None
    return errno.ENOSPC, places[0]  # several libraries fail without a reason


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that it comes from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno in REASONS:
        return error.errno
    return next((code for code, words in WORDS.items() if words.search(str(error))), None)


def _takes_more(folder: Path) -> bool:
    """Return whether the disk of a folder still takes a small file; also True if it cannot be tried."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno not in REASONS
    return True


def _folder(path: Path) -> Path:
    """Return the nearest folder that exists at or above a path."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    with suppress(OSError):
        return sum(map(_size, path.iterdir())) if path.is_dir() else path.stat().st_size
    return 0


def _remove(path: Path) -> None:
    """Remove an unfinished folder, or file with what libraries leave beside it, such as a journal."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    path.unlink(missing_ok=True)
    with suppress(OSError):
        for beside in [other for other in path.parent.iterdir() if other.name.startswith(path.name)]:
            beside.unlink(missing_ok=True)


def _bytes(dtype: Any, shape: Sequence[int]) -> int:
    import numpy as np

    return int(np.dtype(dtype).itemsize * np.prod([int(length) for length in shape], dtype=object))

"""Full disks: detected before writing where possible, recognised in errors of any library, reported in one line.

* :func:`full_disk_told` turns the error of a full disk, from any library, into :class:`FullDisk`, an InputError.
  Writers need it only for files they write in place; :mod:`mlla_seg.atomic` uses it for all others.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlla_seg.errors import InputError

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than its file system or ulimit -f allows",
}
"""Text of the message for each error of the system that means a full disk."""
WORDS = {
    errno.ENOSPC: re.compile(r"no space left on device|errno = 28\b|disk is full", re.IGNORECASE),
    errno.EDQUOT: re.compile(r"disk quota exceeded", re.IGNORECASE),
    errno.EFBIG: re.compile(r"\bfile too large", re.IGNORECASE),
}
"""Messages of libraries that do not pass on the system's error."""
UNFINISHED = ".tmp-"
"""First characters of the names of unfinished files and folders, which messages do not show."""
PROBE = 2**16
"""Bytes written as a test: if the disk takes them, an error that gives no reason is not due to a full disk."""
AGAIN = "Free some space, then run the same command again."


class FullDisk(InputError):
    """A disk is full. What is written next will not find room either, so loops over files end."""


class NoSpace(OSError):
    """The disk has no room for a file whose size is known."""

    def __init__(self, code: int, path: Path, needed: int) -> None:
        super().__init__(code, os.strerror(code), str(path))
        self.needed = needed


@contextmanager
def full_disk_told(path: Path, advice: str = AGAIN, parts: Sequence[Path] = ()) -> Iterator[None]:
    """Raise :class:`FullDisk` for the error of a full disk, and let all other errors pass.

    Args:
        path: File or folder that is written, for the message.
        advice: What the user can do.
        parts: Unfinished files and folders, which are removed on any error, with the files that libraries put beside
            them, such as journals: their names begin alike.

    Raises:
        FullDisk: The disk is full, the quota used up, or the file too large. Says where, and how much is missing.
    """
    try:
        yield
    except BaseException as error:
        mine = isinstance(error, Exception) and not isinstance(error, InputError)
        full = _found(error, path, parts) if mine else None
        for belonging in _belonging(parts):
            _remove(belonging)
        if full is None:
            raise
        kept = f" The {path.name} before is kept." if parts and path.is_file() else ""
        raise FullDisk(f"{_known(path)}: {full.told()}.{kept} {advice}") from error


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


def require_room(path: Path) -> None:
    """Raise if the disk of a file has no room left, after a library that may have lost the end of it silently.

    Raises:
        OSError: The disk is full.
    """
    if not _takes_more(path.parent):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


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
    """Return the message for an error of a full disk that is not yet a :class:`FullDisk`; None for other errors."""
    full = _found(error, None)
    return None if full is None else f"{full.told()}. {AGAIN}"


def in_bytes(count: float) -> str:
    """Return a number of bytes in words, such as ``4.0 MB``."""
    for unit, size in (("EB", 1e18), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= 0.1 * size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB" if count >= 1000 else f"{count:.0f} bytes"


@dataclass(frozen=True)
class _Full:
    """What is known about a full disk when an error occurs."""

    code: int
    folder: Path
    needed: str
    """Size of what is written, as far as it is known."""

    def told(self) -> str:
        """Return reason, needed and free space; called when unfinished files are removed."""
        needed = f": {self.needed} are needed" if self.needed else ""
        if self.code != errno.ENOSPC:  # the free space does not matter
            return f"{REASONS[self.code]}{needed}"
        folder = _folder(self.folder)  # it may have been one of the unfinished ones
        usage = os.statvfs(folder) if hasattr(os, "statvfs") else None
        if usage and usage.f_files and not usage.f_favail:
            return f"the disk takes no more files: all {usage.f_files} inodes of {_known(folder)} are in use"
        free = f"{in_bytes(shutil.disk_usage(folder).free)} are free in {_known(folder)}"
        return f"{REASONS[self.code]}{needed}, {free}" if needed else f"{REASONS[self.code]}: only {free}"


def _found(error: BaseException, path: Path | None, parts: Sequence[Path] = ()) -> _Full | None:
    """Return what is known about the full disk that caused an error; None if another cause is likely."""
    named = [Path(str(link.filename)) for link in _chain(error) if isinstance(link, OSError) and link.filename]
    places = [_folder(place) for place in ([path] if path else []) + named + [Path(tempfile.gettempdir()), Path()]]
    code = next((code for link in _chain(error) if (code := _code(link))), None)
    full = places[0]
    if code is not None:
        full = next((folder for folder in places if not _takes_more(folder)), full)
    elif path is not None and not isinstance(error, ImportError | MemoryError) and not _takes_more(full):
        code = errno.ENOSPC  # several libraries fail without a reason
    if code is None:
        return None
    known = next((link.needed for link in _chain(error) if isinstance(link, NoSpace)), 0)
    written = sum(map(_size, _belonging(parts)))
    if known:
        return _Full(code, full, in_bytes(known + written))
    if full != places[0] or not written or _takes_more(full):  # unknown, or given back by a library
        return _Full(code, full, "")
    return _Full(code, full, f"more than {in_bytes(written)}")


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


def _known(path: Path) -> Path:
    """Return a path without the unfinished folders that it lies in."""
    return Path(*(part for part in path.parts if not part.startswith(UNFINISHED)))


def _folder(path: Path) -> Path:
    """Return the nearest folder that exists at or above a path."""
    return next(folder for folder in (path, *path.parents) if os.path.isdir(folder))  # false if the name is too long


def _belonging(parts: Sequence[Path]) -> list[Path]:
    """Return the existing ones of unfinished files and folders, and what lies beside them by their names."""
    found = []
    for part in parts:
        with suppress(OSError):
            found += [path for path in part.parent.iterdir() if path.name.startswith(part.name)]
    return found


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    with suppress(OSError):
        return sum(map(_size, path.iterdir())) if path.is_dir() else path.stat().st_size
    return 0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _bytes(dtype: Any, shape: Sequence[int]) -> int:
    import numpy as np

    return int(np.dtype(dtype).itemsize * np.prod([int(length) for length in shape], dtype=object))

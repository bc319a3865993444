"""The one way to replace a file: whole, durable, and with the earlier file kept if anything fails.

* :func:`renamed_when_done` for a file that any library writes, :func:`replace_content` for bytes that are at hand.
* :func:`unfinished_folder` for several files, which :func:`replace` moves to their names once all are written.

Files are synchronised before they are renamed, and their folder after, so that a power cut never leaves an empty file
under the final name (0.4 ms per file on a fast disk). A full disk is an :class:`InputError` with the needed and the
free space; see :mod:`mlla_seg.disk_space`, also for arrays that are reserved before they are mapped.

Temporary names contain the host and the process that writes them. Leftovers of a killed process are removed by the next
process that writes to the same folder; those of another host, whose processes cannot be seen, only after a day without
a change.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from mlla_seg.disk_space import AGAIN, UNFINISHED, full_disk_told, reserve

TEMPORARY = re.compile(re.escape(UNFINISHED) + r"(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{6}\..*", re.DOTALL)
"""Names of unfinished files and folders."""
LONGEST = 215
"""Bytes of a file's name that its temporary name keeps; file systems allow 255."""
FOREIGN = 24 * 3600
"""Seconds without a change after which an unfinished file of another host counts as left behind."""


@contextmanager
def renamed_when_done(path: Path, advice: str = AGAIN) -> Iterator[Path]:
    """Yield a temporary path with the suffix of ``path``, which is renamed to it on success.

    On any error the temporary file is removed and the earlier file stays.

    Args:
        path: File to create or to replace; its folder is made.
        advice: What a user can do if the disk is full.

    Raises:
        FullDisk: The disk is full.
    """
    with full_disk_told(path, advice, [temporary := temporary_for(path)]), _named(temporary, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean_once(path.parent, os.getpid())
        yield temporary
        replace({temporary: path})


def replace_content(path: Path, content: bytes | memoryview, advice: str = AGAIN) -> None:
    """Replace a file by ``content``; its space is reserved first. See :func:`renamed_when_done`."""
    with renamed_when_done(path, advice) as temporary, temporary.open("wb") as file:
        reserve(file.fileno(), temporary, len(content))
        file.write(content)


@contextmanager
def unfinished_folder(target: Path, advice: str = AGAIN) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``, which is removed at the end; :func:`replace` moves files out of it.

    Args:
        target: What is written in the end, for messages.
        advice: What a user can do if the disk is full.

    Raises:
        FullDisk: The disk is full.
    """
    with full_disk_told(target, advice, [folder := temporary_for(target)]), _named(folder, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean_once(target.parent, os.getpid())
        folder.mkdir()
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


def replace(finished: Mapping[Path, Path]) -> None:
    """Rename finished files or folders from temporary (keys) to final paths, in order, once all are on the disk."""
    for temporary in finished:
        _synchronise(temporary)
    for temporary, path in finished.items():
        os.replace(temporary, path)
    for folder in {path.parent: None for path in finished.values()}:
        _synchronise_names(folder)


def temporary_for(path: Path) -> Path:
    """Return an unused name beside ``path`` with its suffix, by which leftovers of this process are recognised."""
    name = path.name
    while len(os.fsencode(name)) > LONGEST:
        name = name[1:]
    return path.with_name(f"{UNFINISHED}{_host()}-{os.getpid()}-{secrets.token_hex(3)}.{name}")


def remove_leftovers(folder: Path) -> int:
    """Remove what killed processes left unfinished in a folder, and return the number of such files and folders."""
    count = 0
    with suppress(OSError), os.scandir(folder) as entries:  # such as a folder that only others may write to
        for entry in entries:
            if (match := TEMPORARY.fullmatch(entry.name)) and _left_behind(match, entry):
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink(missing_ok=True)
    return count


@cache
def _clean_once(folder: Path, process: int) -> None:
    """Remove leftovers when a process first writes to a folder."""
    remove_leftovers(folder)


def _left_behind(match: re.Match[str], entry: os.DirEntry[str]) -> bool:
    if match["host"] != _host() or os.name != "posix":
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > FOREIGN
    try:
        os.kill(int(match["process"]), 0)  # signal 0 only asks
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def _host() -> str:
    """Return an identifier of the machine or container, within which the number of a process is unique."""
    with suppress(OSError):
        return _digest(f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}")
    return _digest(socket.gethostname())


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


@contextmanager
def _named(temporary: Path, path: Path) -> Iterator[None]:
    """Make errors of the system name the final file instead of the temporary one."""
    try:
        yield
    except OSError as error:
        if error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise


def _synchronise(path: Path) -> None:
    """Write a file, or all files of a folder, to the disk."""
    if path.is_dir():
        for inner in path.iterdir():
            _synchronise(inner)
        _synchronise_names(path)
        return
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _synchronise_names(folder: Path) -> None:
    """Write the names of a folder to the disk, so that a rename outlives a power cut."""
    with suppress(OSError):  # some file systems, and Windows, open no folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""One process at a time for a folder or a file.

:func:`hold` takes the lock of a folder (a file ``.lock`` in it) or of a file (``.NAME.lock`` beside it), and
:func:`release` gives it back; :func:`held` does both. The system releases the lock of a process that is killed. The
file holds the name of the process that has the lock, for the messages to others, which the caller words:

>>> with held(folder, lambda holder: f"{folder}: {holder} writes here. Wait for its end.", wait=10):
...     ...
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mlla_seg.errors import InputError
from mlla_seg.progress import note

LOCK = ".lock"


class Held(InputError):
    """Another process has the lock."""


def lock_file(path: Path) -> Path:
    """Return the lock of a folder, within it, or of a file or a path that does not exist, beside it."""
    return path / LOCK if path.is_dir() else path.with_name(f".{path.name}{LOCK}")


def hold(
    path: Path,
    refusal: Callable[[str], str],
    wait: float = 0,
    waiting: Callable[[str], str] | None = None,
) -> FileLock:
    """Lock a folder or a file; its own folder must exist.

    Args:
        path: The folder, or the file, which need not exist.
        refusal: Returns the error's text from the name of the holder, such as ``process 12 on node3``.
        wait: Seconds to wait for another process; infinity for as long as it takes.
        waiting: Returns a note for the user from the name of the holder, said once if it is waited for.

    Raises:
        Held: Another process holds it, and still does after ``wait`` seconds.

    Returns:
        The lock, to be kept: it is released when the object goes.
    """
    lock = FileLock(lock_file(path), thread_local=False)  # any thread may give it back
    try:
        try:
            _acquire(lock, 0)
        except Timeout:
            if wait and waiting is not None:
                note(waiting(holder(path)))
            _acquire(lock, min(wait, 1e9))
    except Timeout as error:
        raise Held(refusal(holder(path))) from error
    with suppress(OSError):  # such as a full disk: the lock holds without a name
        Path(lock.lock_file).write_text(f"process {os.getpid()} on {socket.gethostname()}")
    return lock


def _acquire(lock: FileLock, timeout: float) -> None:
    """Lock the file that is there: while one waits, its holder removes it, and others lock a new one."""
    end = time.monotonic() + timeout
    while True:
        lock.acquire(timeout=max(0.0, end - time.monotonic()))
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock._context.lock_file_fd), os.stat(lock.lock_file)):  # type: ignore[arg-type]
                return
        lock.release()


def release(lock: FileLock) -> None:
    """Give a lock back and remove its file."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


@contextmanager
def held(
    path: Path,
    refusal: Callable[[str], str],
    wait: float = 0,
    waiting: Callable[[str], str] | None = None,
) -> Iterator[None]:
    """Hold a lock for the time of a block; see :func:`hold`."""
    lock = hold(path, refusal, wait, waiting)
    try:
        yield
    finally:
        release(lock)


def holder(path: Path) -> str:
    """Return the name of the process that holds a lock, such as ``process 12 on node3``."""
    with suppress(OSError):
        return lock_file(path).read_text(errors="replace").strip()[:200] or "another process"
    return "another process"

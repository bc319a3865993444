"""A disk of a few megabytes for tests: a file system in memory that only a child of the test's process sees."""

from __future__ import annotations

import ctypes
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
PRIVATE = 0x44000  # MS_REC | MS_PRIVATE


def on_small_disk(folder: Path, work: Callable[[Path], Any], options: str = "size=3m") -> Any:
    """Return ``work(folder)``, run in a child process with a file system of 3 MB at ``folder``.

    An exception of the child is raised here. Skips the test where no file system can be mounted.
    """
    folder.mkdir(exist_ok=True)
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            result = _run(folder, work, options)
        except BaseException as error:
            result = (type(error).__name__, _portable(error))
        os.write(writing, pickle.dumps(result))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        content = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the process ended with status {status}: {-status} is a signal"
    how, value = pickle.loads(content)
    if how == "skip":
        pytest.skip(value)
    if how != "done":
        raise value
    return value


def _run(folder: Path, work: Callable[[Path], Any], options: str) -> tuple[str, Any]:
    if reason := _mount(folder, options):
        return "skip", f"no file system of its own can be mounted here: {reason}"
    return "done", work(folder)


def _mount(folder: Path, options: str) -> str:
    """Mount a file system in a namespace of its own; returns why it cannot be done, or nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS):  # only root may
        if libc.unshare(CLONE_NEWNS | CLONE_NEWUSER):
            return os.strerror(ctypes.get_errno())
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {own[0]} 1")
            Path("/proc/self/gid_map").write_text(f"0 {own[1]} 1")
        except OSError as error:
            return str(error)
    libc.mount(b"none", b"/", None, PRIVATE, None)
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, options.encode()):
        return os.strerror(ctypes.get_errno())
    return ""


def _portable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error

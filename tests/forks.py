"""Actions in a forked process, which shares all that is imported, and is killed or runs out of memory alone."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from threading import RLock

import numpy as np
from lightning.fabric.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from conftest import ROOT, run_main

LONGEST = 600
"""Seconds after which a program that hangs is ended."""
HANGS = 200
"""Seconds after which a function that hangs is ended."""


def begin(action: Callable[[], object]) -> int:
    """Start an action in a child and return the number of its process; it is ended if it hangs."""
    settle()
    process = os.fork()
    if process:
        return process
    status = 70
    tqdm.set_lock(RLock())  # the parent would wait for ever for one that it shares with a child that is killed
    signal.alarm(HANGS)
    try:
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def settle() -> None:
    """Wait for threads to end that Python has joined: they may still close libraries, whose locks a child inherits."""
    before: set[str] = set()
    while before != (before := set(os.listdir("/proc/self/task"))):
        time.sleep(0.01)


def end(process: int) -> int:
    """Wait for a child and return its status: 0, 70 for an exception, or -9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def apart(action: Callable[[], object], folder: Path | str = ".", ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """Do in children what else would need a new interpreter, which takes ten seconds to import torch and lightning.

    Args:
        action: May end with :class:`SystemExit`.
        folder: Working directory.
        ranks: Number of children; if there are several, each is given the rank that torchrun would give it.

    Returns:
        The exit status of the first child, and what all of them printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def child(rank: int) -> None:
            signal.alarm(LONGEST)
            for descriptor, file in ((1, out), (2, err)):
                os.dup2(file.fileno(), descriptor)
            sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1) for descriptor in (1, 2))
            warnings.resetwarnings()  # which pytest turns into errors
            os.chdir(folder)
            if ranks > 1:
                os.environ.update(group, LOCAL_RANK=str(rank))
                rank_zero_only.rank = rank
            status = 0
            try:
                action()
            except SystemExit as stop:
                status = stop.code or 0
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

        children = [begin(partial(child, rank)) for rank in range(ranks)]
        status, *_ = [end(child) for child in children]
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([], status, out.read(), err.read())


def run_apart(*arguments: object, folder: Path | str = ".", ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """Run the program as :func:`run_main` does, but :func:`apart`."""

    def program() -> None:
        sys.modules["__main__"].__spec__ = None  # by which Lightning would start pytest as its further processes
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        run_main(*arguments, program=str(ROOT / "cli.py"))

    return apart(program, folder, ranks)


def forget(package: str) -> None:
    """Undo the imports of a package in this process."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


def kill_at(step: int) -> None:
    """Kill this process before a step: a file that is renamed or removed, or an array that is flushed."""
    steps = count()

    def counted(function):
        def call(*args, **kwargs):
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for module, name in ((os, "replace"), (os, "unlink"), (os, "rmdir"), (np.memmap, "flush")):
        setattr(module, name, counted(getattr(module, name)))


def limit_memory(more: int) -> None:
    """Let this process have only so many bytes more than it has now."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

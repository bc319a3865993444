"""Actions in a forked process, which shares all that is imported, and is killed or runs out of memory alone."""

from __future__ import annotations

import os
import resource
import signal
import traceback
from collections.abc import Callable
from itertools import count

import numpy as np


def begin(action: Callable[[], object]) -> int:
    """Start an action in a child and return the number of its process."""
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def end(process: int) -> int:
    """Wait for a child and return its status: 0, 70 for an exception, or -9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


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

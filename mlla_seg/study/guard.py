"""Runs a command so that it ends when the program that started it is killed: otherwise it might train on for hours.

``python -m mlla_seg.study.guard PARENT_ID COMMAND ...``; the command takes the place of this process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def guarded(command: Sequence[str]) -> list[str]:
    """Return the command under guard; elsewhere than on Linux the command itself."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-m", "mlla_seg.study.guard", str(os.getpid()), *command]


def main(parent: str, *command: str) -> None:
    """Ask the kernel for a signal at the parent's death, which outlives exec, and become the command."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == int(parent):  # otherwise it died meanwhile
        os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])

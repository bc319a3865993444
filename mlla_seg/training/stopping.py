"""Signals that ask training to stop, and the command that resumes it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch.plugins.environments import SLURMEnvironment

from mlla_seg.errors import program

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals of a shutdown or scheduler, of Ctrl-C, and of SLURM shortly before the end of the time limit."""


class StopSignals:
    """Remembers the first signal to stop, so that training can end after a whole step; a second one ends it at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.requeues = False
        self.before: dict[int, Callable[..., Any] | int | None] = {}

    def watch(self) -> None:
        """Install the handlers, in place of Lightning's, which save and communicate in the middle of a step."""
        self.received = None
        self.before = {signum: signal.getsignal(signum) for signum in STOPPING}
        # Lightning handles this signal only where SLURM is to requeue the job.
        self.requeues = SLURMEnvironment.detect() and callable(self.before[signal.SIGUSR1])
        for signum in STOPPING:
            signal.signal(signum, self._remember)

    def restore(self) -> None:
        """Install the former handlers."""
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        self.before = {}

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None and signum == signal.SIGINT:
            os._exit(128 + signum)
        if self.received is None:
            self.received = signum


def resume_command(path: str | Path) -> str:
    """Return the command of this process with the checkpoint to resume from."""
    words, kept = iter(sys.argv[1:]), list[str]()
    for word in words:
        if word == "--ckpt_path":
            next(words, None)
        elif not word.startswith("--ckpt_path="):
            kept.append(word)
    return f"{program()} {shlex.join([*kept, '--ckpt_path', str(path)])}"


def requeue() -> bool:
    """Ask SLURM to start the job again; returns whether it will."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    try:
        return subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0
    except OSError:
        return False


def was_requeued() -> bool:
    """Return whether SLURM started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0

"""One process per run folder, and removal of what killed runs left behind."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from mlla_seg.errors import InputError

LOCK = ".lock"
"""File beside the checkpoints that a training process holds; the system releases it if the process is killed."""
WAIT = 10
"""Seconds to wait for a process that is about to end."""
BEFORE_CHECKPOINTS = {"config.yaml", "hparams.yaml", "metrics.csv"}
"""What a run has before its first checkpoint."""


def hold(checkpoints: Path) -> FileLock:
    """Lock a run's folder of checkpoints and remove unfinished files of a killed process.

    Raises:
        InputError: Another process trains there.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    lock = FileLock(checkpoints / LOCK)
    try:
        lock.acquire(timeout=WAIT)
    except Timeout as error:
        raise InputError(
            f"{checkpoints.parent}: another process is training in this folder. Wait for its end, or start a run of "
            "its own without --ckpt_path."
        ) from error
    for path in checkpoints.glob(".*.ckpt"):
        path.unlink(missing_ok=True)
    return lock


def release(lock: FileLock) -> None:
    """Unlock a run's folder."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def remove_killed(runs: Path) -> None:
    """Remove the folders of runs that were killed before their first checkpoint."""
    for lock in sorted(runs.glob(f"*/checkpoints/{LOCK}")):
        run = lock.parent.parent
        others = {path.name for path in run.iterdir()} - {"checkpoints"}
        if any(lock.parent.glob("[!.]*")) or others - BEFORE_CHECKPOINTS:
            continue
        try:
            with FileLock(lock).acquire(timeout=0):
                shutil.rmtree(run)
        except (Timeout, OSError):  # alive, or not ours to remove
            continue
        print(f"note: removed {run}, which a killed run left without a checkpoint", file=sys.stderr)

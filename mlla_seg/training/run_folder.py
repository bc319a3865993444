"""One process per run folder, and removal of what killed runs left behind."""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from pathlib import Path

from filelock import FileLock

from mlla_seg import locks
from mlla_seg.atomic import FOREIGN
from mlla_seg.progress import note

WAIT = 10
"""Seconds to wait for a process that is about to end."""
BEFORE_CHECKPOINTS = {"config.yaml", "hparams.yaml", "metrics.csv"}
"""What a run has before its first checkpoint, besides TensorBoard's files."""
EVENTS = "events.out.tfevents."
"""Begins the names of TensorBoard's files."""


def hold(checkpoints: Path) -> FileLock:
    """Lock a run's folder of checkpoints and remove unfinished files of a killed process.

    Raises:
        InputError: Another process trains there.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    lock = locks.hold(
        checkpoints,
        lambda holder: (
            f"{checkpoints.parent}: another process is training in this folder ({holder}). Wait for its end, or start "
            "a run of its own without --ckpt_path."
        ),
        WAIT,
    )
    for path in checkpoints.glob(".*.ckpt"):
        path.unlink(missing_ok=True)
    return lock


def remove_killed(runs: Path) -> None:
    """Remove the folders of runs that were killed before their first checkpoint.

    A run without a lock may be scored just now, or about to take its lock, so it is removed only after a day without a
    change.
    """
    for run in sorted(path for path in runs.glob("*") if path.is_dir()):
        checkpoints = run / "checkpoints"
        lock = checkpoints / locks.LOCK
        names = {path.name for path in run.iterdir() if not path.name.startswith(EVENTS)} - {"checkpoints"}
        if names - BEFORE_CHECKPOINTS or any(checkpoints.glob("[!.]*")):
            continue
        if not lock.is_file() and not (run.name.startswith("version_") and _is_abandoned(run, checkpoints)):
            continue
        try:
            with locks.held(checkpoints, str) if lock.is_file() else nullcontext():
                shutil.rmtree(run)
        except (locks.Held, OSError):  # alive, or not ours to remove
            continue
        note(f"note: removed {run}, which a killed run left without a checkpoint")


def _is_abandoned(run: Path, checkpoints: Path) -> bool:
    """Return whether nothing was changed in a run's folder for so long that no process uses it."""
    there = [run, *run.iterdir(), *(checkpoints.iterdir() if checkpoints.is_dir() else ())]
    return time.time() - max(path.lstat().st_mtime for path in there) > FOREIGN

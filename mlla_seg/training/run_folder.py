"""One process per run folder, and removal of what killed runs left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock

from mlla_seg import locks
from mlla_seg.progress import note

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
    """Remove the folders of runs that were killed before their first checkpoint."""
    for lock in sorted(runs.glob(f"*/checkpoints/{locks.LOCK}")):
        run = lock.parent.parent
        others = {path.name for path in run.iterdir()} - {"checkpoints"}
        if any(lock.parent.glob("[!.]*")) or others - BEFORE_CHECKPOINTS:
            continue
        try:
            with locks.held(lock.parent, str):
                shutil.rmtree(run)
        except (locks.Held, OSError):  # alive, or not ours to remove
            continue
        note(f"note: removed {run}, which a killed run left without a checkpoint")

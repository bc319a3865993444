"""Suggestions of a checkpoint for a path that is not one."""

from __future__ import annotations

from pathlib import Path

RUNS = "runs"
"""Folder of runs in the working directory, unless a config says otherwise."""


def did_you_mean(path: Path) -> str:
    """Return a sentence with the newest checkpoint below a folder, or of the runs for ``best`` or ``last``.

    It is empty if there is none.
    """
    if path.is_dir():
        found = [file for name in ("best", "last") for file in newest_first(path, name)]
    else:
        found = newest_first(Path(RUNS), path.name) if str(path) in ("best", "last") else []
    return f"Did you mean {found[0]}?" if found else ""


def newest_first(folder: Path, name: str) -> list[Path]:
    """Return the checkpoints of a name below a folder."""
    return sorted(folder.glob(f"**/checkpoints/{name}.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)

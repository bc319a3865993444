"""Versions of an experiment: its newest checkpoint, and the run that a checkpoint continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlla_seg.errors import InputError
from mlla_seg.models.checkpoint import read_checkpoint
from mlla_seg.progress import note


def continued_version(path: Path, folder: Path) -> int | str | None:
    """Return the version of the run that a checkpoint continues, if it is a ``last.ckpt`` below the folder of runs."""
    if path.stem != "last" or folder.resolve() != path.resolve().parent.parent.parent:
        return None
    name = path.resolve().parent.parent.name
    number = name.removeprefix("version_")
    return int(number) if number != name and number.isdecimal() else name


def newest(
    name: str,
    folder: Path,
    fits: Callable[[Mapping[str, Any]], bool],
    read: Callable[[Path], Mapping[str, Any]] = read_checkpoint,
) -> Path | None:
    """Return the newest checkpoint by name, otherwise the newest ``last``.

    Damaged files of earlier versions are left out, with a note.

    Args:
        name: ``best`` or ``last``.
        folder: Folder of the versions.
        fits: Whether the content of a checkpoint is of the wanted kind, such as that of a fold.
        read: Reads and checks a checkpoint.

    Raises:
        InputError: The only or the latest version's checkpoint is damaged.
    """
    found = [path for runs in ("*/", "") for path in folder.glob(f"{runs}checkpoints/[!.]*.ckpt")]
    files = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    for wanted in dict.fromkeys((name, "last")):
        damaged: dict[Path, InputError] = {}
        for path in (path for path in files if path.stem == wanted):
            try:
                content = read(path)
            except InputError as error:
                damaged[path] = error
                continue
            if not fits(content):
                continue
            for other, reason in damaged.items():
                if _number(other) >= _number(path):
                    raise reason
                note(f"note: left out {reason}")
            if wanted != name:
                note(f"note: there is no {name}.ckpt, which the first validation writes; {path} is used")
            return path
        if damaged:
            raise next(iter(damaged.values()))
    return None


def _number(path: Path) -> int:
    """Return the number of the version that a checkpoint belongs to; -1 without one."""
    number = path.parent.parent.name.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1


def require_something_left(path: str | Path, content: Mapping[str, Any], trainer: Any) -> None:
    """Check that a checkpoint is not beyond the end of the training; print a note if it is exactly there.

    Raises:
        InputError: The checkpoint was trained for longer than the options allow.
    """
    epochs = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    for key, done, what in (("max_epochs", epochs, "epochs"), ("max_steps", content["global_step"], "steps")):
        wanted = trainer.get(key)
        if wanted is None or wanted < 0 or done < wanted:
            continue
        message = f"{path}: has been trained for {done} {what}, and --trainer.{key} is {wanted}"
        if done > wanted:
            raise InputError(f"{message}. Increase it to resume.")
        note(f"note: {message}, so nothing is left to train.")

"""Writing of checkpoints such that a kill or a full disk never damages the one before."""

from __future__ import annotations

import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from mlla_seg.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk and of an exhausted quota."""


class DurableCheckpointIO(TorchCheckpointIO):
    """Lightning plugin that writes a checkpoint beside its final name and renames it when it is on the disk.

    Lightning's own writes to TMPDIR and copies the file over the former one, which a kill leaves truncated if TMPDIR is
    on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if storage_options is not None or "://" in str(path):  # object stores replace files as a whole
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        replace_durably(Path(path), content.getbuffer())


def replace_durably(path: Path, content: memoryview) -> None:
    """Replace a file in one step: after a crash it has either its former content or the new one.

    Raises:
        InputError: The disk is full; the former file is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with temporary.open("wb") as file:
            _reserve(file.fileno(), len(content))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno not in FULL:
            raise
        temporary.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        kept = f" The {path.name} before is kept." if path.is_file() else ""
        raise InputError(
            f"{path}: the disk is full: {len(content) / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free.{kept} "
            "Free some space, then resume with --ckpt_path last."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _reserve(file: int, size: int) -> None:
    """Reserve the space of a file, so that a full disk is found before anything is written."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno in FULL:
                raise  # other errors: the file system cannot reserve


def _sync_folder(folder: Path) -> None:
    """Write the names of a folder to the disk, so that a rename outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

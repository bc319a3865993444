"""Writing of checkpoints such that a kill or a full disk never damages the one before."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from mlla_seg.atomic import replace_content

RESUME = "Free some space, then resume with --ckpt_path last."


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
        replace_content(Path(path), content.getbuffer(), RESUME)

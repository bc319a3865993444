"""Bare arrays, h5 and npz: read as they are, slices first, without spacing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.data.formats.picture import Array, Picture, compact
from mlla_seg.errors import InputError

IMAGE_KEYS = ("image", "img", "data")
MASK_KEYS = ("label", "mask", "gt", "seg")
COLOUR_KEYS = (*MASK_KEYS, "colours")
"""For masks whose colours stand for classes."""

# Python 3.11 cannot parse literals, such as the header of an array in an npz, in two threads at once.
PARSING = Lock()


def read_h5(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read the array under the first of ``keys`` in the file."""
    import h5py

    with h5py.File(path) as file:
        return Picture(compact(_stack(file[_find_key(list(file), keys, path)][()], path)))


def read_npz(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read the array under the first of ``keys`` in the file; pickled objects are refused."""
    # Opened here, as numpy does not close a damaged archive.
    with PARSING, path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return Picture(compact(_stack(file[_find_key(file.files, keys, path)], path)))


def write_h5(path: Path, mask: Array, classes: Sequence[ClassInfo], source: Path, plane: str) -> None:
    """Write the mask as ``label``, with the axes of the source's array."""
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("label", data=_shaped_like(mask, source), compression="gzip")


def write_npz(path: Path, mask: Array, classes: Sequence[ClassInfo], source: Path, plane: str) -> None:
    """Write the mask as ``label``, with the axes of the source's array."""
    np.savez_compressed(path, label=_shaped_like(mask, source))


def _stack(array: Array, path: Path) -> Array:
    """Convert an image (H, W) or a volume (S, H, W) to ``(S, C, H, W)``."""
    if array.ndim == 2:
        return array[None, None]
    if array.ndim == 3:
        return array[:, None]
    raise InputError(f"{path}: expected an array with 2 or 3 axes (slices, height, width), found shape {array.shape}.")


def _find_key(names: Sequence[str], keys: Sequence[str], path: Path) -> str:
    for key in keys:
        if key in names:
            return key
    raise InputError(f"{path}: no array named {' or '.join(keys)}, found {', '.join(names) or 'nothing'}.")


def _shaped_like(mask: Array, source: Path) -> Array:
    """Reshape the mask to the axes of the source's array, so that a single slice is ``(H, W)`` again."""
    if source.suffix.lower() == ".npz":
        with PARSING, np.load(source, allow_pickle=False) as file:
            return mask.reshape(file[_find_key(file.files, IMAGE_KEYS, source)].shape)
    import h5py

    with h5py.File(source) as file:
        return mask.reshape(file[_find_key(list(file), IMAGE_KEYS, source)].shape)

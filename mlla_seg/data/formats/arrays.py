"""Bare arrays, h5 and npz: read as they are, slices first, without spacing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from mlla_seg.data.formats.claims import DEFLATE, require_room
from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.data.formats.h5_files import new_h5
from mlla_seg.data.formats.picture import Array, Picture, compact
from mlla_seg.errors import InputError

IMAGE_KEYS = ("image", "img", "data")
MASK_KEYS = ("label", "mask", "gt", "seg")
COLOUR_KEYS = (*MASK_KEYS, "colours")
"""For masks whose colours stand for classes."""

# Python 3.11 cannot parse literals, such as the header of an array in an npz, in two threads at once.
PARSING = Lock()


def read_h5(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read the array under the first of ``keys`` in the file; what it takes from other files is refused."""
    import h5py

    with h5py.File(path) as file:
        array = _h5_array(file, keys, path)
        _require_numbers(array.dtype, array.name, path)
        require_room(path, array.shape, array.dtype.itemsize)  # parts without values take no room in the file
        require_room(path, array.chunks or (), array.dtype.itemsize)
        return Picture(compact(_stack(array[()], path)))


def read_npz(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read the array under the first of ``keys`` in the file; pickled objects are refused."""
    with _open_npz(path) as archive:
        member, shape, dtype = _npz_header(archive, keys, path)
        _require_numbers(dtype, member.filename, path)
        deflated = member.compress_type in (ZIP_STORED, ZIP_DEFLATED)
        held = min(member.compress_size, path.stat().st_size) if deflated else None
        require_room(path, shape, dtype.itemsize, held, DEFLATE if member.compress_type == ZIP_DEFLATED else 1)
        with PARSING, archive.open(member) as opened:
            return Picture(compact(_stack(np.lib.format.read_array(opened, allow_pickle=False), path)))


def write_h5(path: Path, mask: Array, classes: Sequence[ClassInfo], source: Path, plane: str) -> None:
    """Write the mask as ``label``, with the axes of the source's array."""
    with new_h5(path) as (file, _):
        file.create_dataset("label", data=_shaped_like(mask, source), compression="gzip")


def write_npz(path: Path, mask: Array, classes: Sequence[ClassInfo], source: Path, plane: str) -> None:
    """Write the mask as ``label``, with the axes of the source's array."""
    np.savez_compressed(path, label=_shaped_like(mask, source))


def _open_npz(path: Path) -> ZipFile:
    with path.open("rb") as opened:
        if not opened.read(2) == b"PK":  # otherwise its end is missing
            raise ValueError("it is no zip archive")
    return ZipFile(path)


def _npz_header(archive: ZipFile, keys: Sequence[str], path: Path) -> tuple[ZipInfo, tuple[int, ...], Any]:
    """Return the place of the array under the first of ``keys`` in an archive, its shape and its type."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    member = members[_find_key(list(members), keys, path)]
    with PARSING, archive.open(member) as opened:
        first, _ = np.lib.format.read_magic(opened)
        read = np.lib.format.read_array_header_1_0 if first == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(opened)
    return member, shape, dtype


def _h5_array(file: Any, keys: Sequence[str], path: Path) -> Any:
    """Return the array under the first of ``keys`` in an HDF5 file.

    Raises:
        InputError: It is none, or its values lie in another file, which a data set must not choose.
    """
    import h5py

    key = _find_key(list(file), keys, path)
    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise InputError(f"{path}: {key} is a link to another place. Store the array itself in the file.")
    array = file[key]
    if not isinstance(array, h5py.Dataset):
        raise InputError(f"{path}: {key} is a group, expected an array.")
    others = [name for name, *_ in array.external or ()]
    if array.is_virtual:
        others += [source.file_name for source in array.virtual_sources() if source.file_name != "."]
    if others:
        raise InputError(
            f"{path}: the values of {key} lie in another file, {others[0]}. Store the array itself in the file."
        )
    return array


def _require_numbers(dtype: Any, name: str, path: Path) -> None:
    if dtype.hasobject:
        raise InputError(
            f"{path}: {name} holds Python objects or texts. Objects are not loaded, as they could run code; save it as "
            "an array of numbers."
        )


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
        with _open_npz(source) as archive:
            return mask.reshape(_npz_header(archive, IMAGE_KEYS, source)[1])
    import h5py

    with h5py.File(source) as file:
        return mask.reshape(_h5_array(file, IMAGE_KEYS, source).shape)

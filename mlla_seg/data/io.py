"""Readers and writers at the edge, by file name: everything inside the program is plain arrays.

Image ``(S, C, H, W)`` and mask ``(S, H, W)``: S slices of a volume, 1 for a photo or tile. Volumes with orientation
(NIfTI) are turned so that slices, rows and columns run as the plane says (see ``spec.PLANES``), and masks are turned
back before they are written. Bare arrays (h5, npz) are taken as they lie, slices first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlla_seg.data.spec import PLANES
from mlla_seg.errors import InputError

Array = NDArray[Any]

IMAGE_KEYS = ("image", "img", "data")
MASK_KEYS = ("label", "mask", "gt", "seg")
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Picture:
    """What was read from a file: an array and where its voxels lie."""

    array: Array
    """``(S, C, H, W)``."""
    spacing_mm: tuple[float, float, float] | None = None
    """Distance between slices, rows and columns; none where the file does not say it."""
    affine: Array | None = None
    """``(4, 4)`` voxel-to-millimetre matrix of the file as stored, for comparing image and mask."""


def suffix_of(path: Path) -> str:
    """The suffix that decides the format, ``.nii.gz`` and ``.npy.h5`` taken whole."""
    name = path.name.lower()
    for suffix in (".nii.gz", ".npy.h5"):
        if name.endswith(suffix):
            return suffix
    return path.suffix.lower()


def is_readable(path: Path) -> bool:
    """Whether the file's name says a format that can be read; hidden files never are."""
    return path.is_file() and not path.name.startswith(".") and suffix_of(path) in READERS


def read_image(path: Path, plane: str = "axial", array_units: Mapping[str, float] | None = None) -> Picture:
    """Reads one image.

    Args:
        path: A file of a known format.
        plane: The plane whose slices come first, for volumes that know their orientation.
        array_units: ``scale`` and ``offset`` from the stored values of bare arrays to units; other files hold units.

    Raises:
        InputError: Unknown format, unreadable or truncated file, or no image in it.
    """
    picture = _read(path, plane, IMAGE_KEYS)
    if not array_units or suffix_of(path) not in ARRAY_SUFFIXES:
        return picture
    scaled = picture.array.astype(np.float32) * array_units["scale"] + array_units["offset"]
    return Picture(scaled.astype(np.float32), picture.spacing_mm, picture.affine)


def read_channels(
    files: Sequence[Path], plane: str = "axial", array_units: Mapping[str, float] | None = None
) -> Picture:
    """Reads one image whose channels may lie in several files, as in nnU-Net's folders; see :func:`read_image`.

    Raises:
        InputError: Also where the files do not fit together.
    """
    channels = [read_image(path, plane, array_units) for path in files]
    for path, channel in zip(files[1:], channels[1:], strict=True):
        require_same_grid(files[0], channels[0], path, channel)
    if len(channels) == 1:
        return channels[0]
    array = np.concatenate([channel.array for channel in channels], axis=1)
    return Picture(array, channels[0].spacing_mm, channels[0].affine)


def read_mask(path: Path, plane: str = "axial") -> Picture:
    """Reads one mask as ``(S, 1, H, W)``; see :func:`read_image`."""
    return _read(path, plane, MASK_KEYS)


def require_same_grid(path: Path, picture: Picture, other_path: Path, other: Picture) -> None:
    """Refuses two files whose voxels do not lie in the same places: shapes differ, or affines by over 0.01 mm.

    Raises:
        InputError: Says both files and what differs.
    """
    shape, other_shape = (p.array.shape[:1] + p.array.shape[2:] for p in (picture, other))
    if shape != other_shape:
        raise InputError(
            f"{other_path}: shape {other_shape} differs from {path.name} with {shape} (slices, height, width)."
        )
    if picture.affine is None or other.affine is None:
        return
    if not np.allclose(picture.affine, other.affine, rtol=0, atol=1e-2):
        offset = np.abs(picture.affine - other.affine).max()
        raise InputError(
            f"{other_path}: its affine differs from {path.name} by up to {offset:.3g} mm, so it lies elsewhere in the "
            "patient. Resample one to the other's grid, or correct the header that is wrong."
        )


def write_mask(
    path: Path, mask: Array, classes: Sequence[Mapping[str, Any]], source: Path, plane: str = "axial"
) -> None:
    """Writes a label map beside nothing half-written: under a temporary name, then renamed.

    Args:
        path: Where to; the suffix decides the format, see :func:`mask_path`.
        mask: ``(S, H, W)`` class indices as read in ``plane``.
        classes: Names and colours, for formats that hold them.
        source: The image it belongs to, whose geometry it takes.
        plane: The plane in which the image was read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        WRITERS[suffix_of(path)](temporary, mask.astype(np.uint8), classes, source, plane)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def mask_path(source: Path, folder: Path) -> Path:
    """Where the mask of ``source`` goes: its name in ``folder``, photos as ``.png``, without nnU-Net's ``_0000``."""
    suffix = suffix_of(source)
    stem = source.name[: -len(suffix)]
    if suffix in (".nii", ".nii.gz"):
        stem = stem.removesuffix("_0000")
    return folder / f"{stem}{'.png' if suffix in PHOTO_SUFFIXES else suffix}"


def _read(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    suffix = suffix_of(path)
    if suffix not in READERS:
        raise InputError(f"{path}: unknown format {suffix or '(no suffix)'}. Known: {', '.join(READERS)}.")
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        picture = READERS[suffix](path, plane, keys)
    except (InputError, ImportError):
        raise
    except Exception as error:  # each library has its own exceptions for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as {suffix} ({reason}). Is it complete? Copy or download it again."
        ) from error
    if picture.array.size == 0:
        raise InputError(f"{path}: is empty, its shape is {picture.array.shape}.")
    return picture


def _compact(array: Array) -> Array:
    """Small integers stay as they are, all else becomes float32."""
    return array if array.dtype in (np.uint8, np.int16, np.uint16) else array.astype(np.float32)


def _stack(array: Array, path: Path) -> Array:
    """A bare array as ``(S, C, H, W)``: an image (H, W) or a volume (S, H, W)."""
    if array.ndim == 2:
        return array[None, None]
    if array.ndim == 3:
        return array[:, None]
    raise InputError(f"{path}: expected an array of 2 or 3 axes (slices, height, width), found shape {array.shape}.")


def _find_key(names: Sequence[str], keys: Sequence[str], path: Path) -> str:
    for key in keys:
        if key in names:
            return key
    raise InputError(f"{path}: no array named {' or '.join(keys)}; it holds {', '.join(names) or 'nothing'}.")


def _read_h5(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    import h5py

    with h5py.File(path) as file:
        return Picture(_compact(_stack(file[_find_key(list(file), keys, path)][()], path)))


def _read_npz(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    # Opened here, as numpy leaves a damaged archive open.
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return Picture(_compact(_stack(file[_find_key(file.files, keys, path)], path)))


def _read_nifti(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    import nibabel as nib

    image = nib.load(path)
    array = np.asarray(image.dataobj)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim not in (3, 4):
        raise InputError(f"{path}: expected a volume of 3 axes, or 4 with channels last, found shape {array.shape}.")
    turn = _turn(image.affine, plane)
    array = nib.orientations.apply_orientation(array, turn)
    array = array[:, None] if array.ndim == 3 else np.moveaxis(array, 3, 1)
    zooms = np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0))
    z, y, x = (float(zooms[list(turn[:, 0]).index(axis)]) for axis in range(3))
    return Picture(_compact(array), (z, y, x), image.affine)


def _turn(affine: Array, plane: str) -> Array:
    """Orientation transform of nibabel from the file's axes to (slice, row, column) of the plane."""
    from nibabel import orientations

    target = orientations.axcodes2ornt(PLANES[plane])
    return orientations.ornt_transform(orientations.io_orientation(affine), target)


def _read_photo(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    from PIL import Image

    with Image.open(path) as image:
        indexed = image.mode == "P" and keys is IMAGE_KEYS
        array = np.array(image.convert("RGB") if indexed else image)
    if array.ndim == 2:
        return Picture(_compact(array[None, None]))
    return Picture(_compact(np.moveaxis(array, 2, 0)[None]))


def _write_nifti(path: Path, mask: Array, classes: Sequence[Mapping[str, Any]], source: Path, plane: str) -> None:
    import nibabel as nib
    from nibabel import orientations

    image = nib.load(source)
    back = orientations.ornt_transform(
        orientations.axcodes2ornt(PLANES[plane]), orientations.io_orientation(image.affine)
    )
    mask = orientations.apply_orientation(mask, back).reshape(image.shape[:3])
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header["cal_min"], header["cal_max"] = 0, 0
    header.set_slope_inter(1, 0)
    nib.Nifti1Image(mask, image.affine, header).to_filename(path)


def _write_h5(path: Path, mask: Array, classes: Sequence[Mapping[str, Any]], source: Path, plane: str) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("label", data=_shaped_like(mask, source), compression="gzip")


def _write_npz(path: Path, mask: Array, classes: Sequence[Mapping[str, Any]], source: Path, plane: str) -> None:
    np.savez_compressed(path, label=_shaped_like(mask, source))


def _shaped_like(mask: Array, source: Path) -> Array:
    """The mask with the axes of the source's array, so that a single slice comes back as ``(H, W)``."""
    if suffix_of(source) == ".npz":
        with np.load(source, allow_pickle=False) as file:
            return mask.reshape(file[_find_key(file.files, IMAGE_KEYS, source)].shape)
    import h5py

    with h5py.File(source) as file:
        return mask.reshape(file[_find_key(list(file), IMAGE_KEYS, source)].shape)


def _write_png(path: Path, mask: Array, classes: Sequence[Mapping[str, Any]], source: Path, plane: str) -> None:
    from PIL import Image

    image = Image.fromarray(mask[0], mode="P")
    image.putpalette([value for entry in classes for value in entry["colour"]])
    image.save(path)


Reader = Callable[[Path, str, Sequence[str]], Picture]
Writer = Callable[[Path, Array, Sequence[Mapping[str, Any]], Path, str], None]

READERS: dict[str, Reader] = {
    ".nii": _read_nifti,
    ".nii.gz": _read_nifti,
    ".h5": _read_h5,
    ".npy.h5": _read_h5,
    ".npz": _read_npz,
    **dict.fromkeys(PHOTO_SUFFIXES, _read_photo),
}
WRITERS: dict[str, Writer] = {
    ".nii": _write_nifti,
    ".nii.gz": _write_nifti,
    ".h5": _write_h5,
    ".npy.h5": _write_h5,
    ".npz": _write_npz,
    ".png": _write_png,
}
ARRAY_SUFFIXES = (".h5", ".npy.h5", ".npz")

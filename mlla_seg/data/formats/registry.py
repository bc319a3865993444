"""Readers and writers at the edge, by file name: everything inside the program is plain arrays.

Image ``(S, C, H, W)`` and mask ``(S, H, W)``: S slices of a volume, 1 for a photo or tile. Volumes with orientation are
turned so that slices, rows and columns run as the plane says, and masks are turned back; see ``volumes.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlla_seg.atomic import renamed_when_done
from mlla_seg.data.formats.arrays import IMAGE_KEYS, MASK_KEYS, read_h5, read_npz, write_h5, write_npz
from mlla_seg.data.formats.classes import ClassInfo, stored_values
from mlla_seg.data.formats.dicom import is_series, read_dicom
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES, read_raster
from mlla_seg.data.formats.photos import read_photo, write_png
from mlla_seg.data.formats.picture import Array, Picture, require_same_grid
from mlla_seg.data.formats.volume_masks import write_dicom_seg, write_itk, write_nifti, write_segmentation
from mlla_seg.data.formats.volumes import ITK_SUFFIXES, read_itk, read_nifti
from mlla_seg.errors import InputError, lookup

Reader = Callable[[Path, str, Sequence[str]], Picture]
Writer = Callable[[Path, Array, Sequence[ClassInfo], Path, str], None]

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
ARRAY_SUFFIXES = (".h5", ".npy.h5", ".npz")
SERIES = "a folder of DICOM"
"""Stands for the suffix of a DICOM series, which is a folder."""

READERS: dict[str, Reader] = {
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    **dict.fromkeys(ITK_SUFFIXES, read_itk),
    SERIES: read_dicom,
    ".h5": read_h5,
    ".npy.h5": read_h5,
    ".npz": read_npz,
    **dict.fromkeys(PHOTO_SUFFIXES, read_photo),
    **dict.fromkeys(RASTER_SUFFIXES, read_raster),
}
WRITERS: dict[str, Writer] = {
    ".nii": write_nifti,
    ".nii.gz": write_nifti,
    ".nrrd": write_itk,
    ".mha": write_itk,
    ".seg.nrrd": write_segmentation,
    ".dcm": write_dicom_seg,
    ".h5": write_h5,
    ".npy.h5": write_h5,
    ".npz": write_npz,
    ".png": write_png,
}
FORMATS = {
    "nii.gz": ".nii.gz",
    "nii": ".nii",
    "nrrd": ".nrrd",
    "mha": ".mha",
    "seg.nrrd": ".seg.nrrd",
    "dicom-seg": ".dcm",
}
"""Formats that any volume's mask can be written in, and their suffixes."""
MASK_SUFFIXES = {
    ".nhdr": ".nrrd",
    ".mhd": ".mha",
    SERIES: ".nii.gz",
    **dict.fromkeys(PHOTO_SUFFIXES, ".png"),
    **dict.fromkeys(RASTER_SUFFIXES, ".tif"),
}
"""Suffixes of masks whose images have another one."""


def suffix_of(path: Path) -> str:
    """The suffix that decides the format, such as ``.nii.gz`` taken whole; a folder is a DICOM series."""
    if path.is_dir():
        return SERIES
    name = path.name.lower()
    for suffix in (".nii.gz", ".npy.h5", ".seg.nrrd"):
        if name.endswith(suffix):
            return suffix
    return path.suffix.lower()


def is_readable(path: Path) -> bool:
    """Whether it is a file of a known format, by its name, or a folder of DICOM files; hidden ones never are."""
    if path.name.startswith("."):
        return False
    return is_series(path) if path.is_dir() else path.is_file() and suffix_of(path) in READERS


def read_image(path: Path, plane: str = "axial", array_units: Mapping[str, float] | None = None) -> Picture:
    """Reads one image.

    Args:
        path: A file of a known format, or a folder that holds one DICOM series.
        plane: The plane whose slices come first, for volumes that know their orientation; see ``volumes.axes_of``.
        array_units: ``scale`` and ``offset`` from the stored values of bare arrays to units; other files hold units.

    Raises:
        InputError: Unknown format, unreadable or truncated file, or no image in it.
    """
    picture = _read(path, plane, IMAGE_KEYS)
    if not array_units or suffix_of(path) not in ARRAY_SUFFIXES:
        return picture
    scaled = picture.array.astype(np.float32) * array_units["scale"] + array_units["offset"]
    return replace(picture, array=scaled.astype(np.float32))


def read_channels(
    files: Sequence[Path], plane: str = "axial", array_units: Mapping[str, float] | None = None
) -> Picture:
    """Reads one image whose channels may lie in several files, as in nnU-Net's folders; see :func:`read_image`.

    Raises:
        InputError: Also where the files do not fit together.
    """
    channels = [read_image(files[0], plane, array_units)]
    plane = channels[0].axes or plane
    channels += [read_image(path, plane, array_units) for path in files[1:]]
    for path, channel in zip(files[1:], channels[1:], strict=True):
        require_same_grid(files[0], channels[0], path, channel)
    if len(channels) == 1:
        return channels[0]
    array = np.concatenate([channel.array for channel in channels], axis=1)
    notes = tuple(dict.fromkeys(note for channel in channels for note in channel.notes))
    return replace(channels[0], array=array, gaps=any(channel.gaps for channel in channels), notes=notes)


def read_mask(path: Path, plane: str = "axial") -> Picture:
    """Reads one mask as ``(S, 1, H, W)``; see :func:`read_image`."""
    return _read(path, plane, MASK_KEYS)


def write_mask(path: Path, mask: Array, classes: Sequence[ClassInfo], source: Path, plane: str = "axial") -> None:
    """Writes a label map under a temporary name, then renames it, so that no half-written one is ever found.

    Args:
        path: Where to; the suffix decides the format, see :func:`mask_path`.
        mask: ``(S, H, W)`` class indices as read in ``plane``; written as the ids of the data set.
        classes: Names and colours, for formats that hold them, and ids where they are not the positions.
        source: The image it belongs to, whose geometry it takes.
        plane: The plane in which the image was read.

    Raises:
        InputError: The format cannot hold a mask of this source.
    """
    if suffix_of(path) != ".dcm":  # whose segments are numbered without gaps
        mask = stored_values(mask, classes)
    try:
        with renamed_when_done(path) as temporary:
            WRITERS[suffix_of(path)](temporary, mask, classes, source, plane)
    except ModuleNotFoundError as error:
        raise _without(path, error) from error


def mask_path(source: Path, folder: Path, format: str | None = None) -> Path:
    """Where the mask of ``source`` goes: its name in ``folder``, without nnU-Net's ``_0000`` for volumes.

    Args:
        source: An image.
        folder: Of the masks.
        format: A name in ``FORMATS`` for volumes; by default the source's own, PNG for photos, NIfTI for DICOM.

    Raises:
        InputError: Unknown format.
    """
    suffix = suffix_of(source)
    stem = source.name if suffix == SERIES else source.name[: -len(suffix)]
    if suffix not in ARRAY_SUFFIXES + PHOTO_SUFFIXES + RASTER_SUFFIXES:
        stem = stem.removesuffix("_0000")
    if format is not None:
        return folder / f"{stem}{lookup(FORMATS, format, 'format')}"
    return folder / f"{stem}{MASK_SUFFIXES.get(suffix, suffix)}"


def _without(path: Path, error: ModuleNotFoundError) -> InputError:
    """What is said where a library is not there, as may be in the runtime."""
    package = {"PIL": "pillow"}.get(str(error.name), error.name)
    return InputError(f"{path}: this format needs {package}: pip install {package}")


def _read(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    suffix = suffix_of(path)
    if suffix not in READERS:
        raise InputError(f"{path}: unknown format {suffix or '(no suffix)'}. Known: {', '.join(READERS)}.")
    if not path.exists():
        raise InputError(f"{path}: no such file.")
    try:
        picture = READERS[suffix](path, plane, keys)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise _without(path, error) from error
    except Exception as error:  # each library has its own exceptions for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as {suffix} ({reason}). Is it complete? Copy or download it again."
        ) from error
    if picture.array.size == 0:
        raise InputError(f"{path}: is empty, its shape is {picture.array.shape}.")
    return picture

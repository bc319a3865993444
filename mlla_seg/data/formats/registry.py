"""Readers and writers by file suffix; all other code works on plain arrays.

Images are ``(S, C, H, W)`` and masks ``(S, H, W)``, with S slices of a volume, or 1 for a photo or tile. Volumes with
orientation are reoriented to a plane, and masks are reoriented back; see ``volumes.py``.

To add a format, write a reader and a writer in a file of this folder and list both in ``READERS`` and ``WRITERS``; a
suffix with two dots must also be known to :func:`suffix_in`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlla_seg.atomic import renamed_when_done
from mlla_seg.data.formats.arrays import COLOUR_KEYS, IMAGE_KEYS, MASK_KEYS, read_h5, read_npz, write_h5, write_npz
from mlla_seg.data.formats.bands import Wanted
from mlla_seg.data.formats.classes import ClassInfo, stored_values
from mlla_seg.data.formats.dicom import read_dicom
from mlla_seg.data.formats.dicom_files import CONTOURS, CONVERT, is_dicom, is_series, role_at_a_glance
from mlla_seg.data.formats.dicom_files import SUFFIXES as DICOM_SUFFIXES
from mlla_seg.data.formats.dicom_seg import write_dicom_seg
from mlla_seg.data.formats.drivers import require_file
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES, open_rasters, read_raster, read_scene
from mlla_seg.data.formats.photos import read_photo, with_gaps, write_png
from mlla_seg.data.formats.picture import Array, Picture
from mlla_seg.data.formats.unreadable import unreadable
from mlla_seg.data.formats.volume_masks import write_itk, write_nifti, write_segmentation
from mlla_seg.data.formats.volumes import ITK_SUFFIXES, read_itk, read_nifti
from mlla_seg.data.formats.voxel_grids import require_same_grid
from mlla_seg.errors import InputError, lookup

Reader = Callable[[Path, str, Sequence[str]], Picture]
Writer = Callable[[Path, Array, Sequence[ClassInfo], Path, str], None]

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
ARRAY_SUFFIXES = (".h5", ".npy.h5", ".npz")
SERIES = "a folder of DICOM"
"""Used as the suffix of a DICOM series, which is a folder."""

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
"""Formats in which the mask of any volume can be written, and their suffixes."""
MASK_SUFFIXES = {
    ".nhdr": ".nrrd",
    ".mhd": ".mha",
    SERIES: ".nii.gz",
    **dict.fromkeys(PHOTO_SUFFIXES, ".png"),
    **dict.fromkeys(RASTER_SUFFIXES, ".tif"),
}
"""Suffixes of masks by suffix of the image, where they differ."""


def suffix_of(path: Path) -> str:
    """Return the suffix that determines the format, such as ``.nii.gz`` as a whole; a folder is a DICOM series."""
    return SERIES if path.is_dir() else suffix_in(path.name)


def suffix_in(name: str) -> str:
    """Return the suffix of a file's name in lower case; see :func:`suffix_of`."""
    name = name.lower()
    for suffix in (".nii.gz", ".npy.h5", ".seg.nrrd"):
        if name.endswith(suffix):
            return suffix
    return os.path.splitext(name)[1]


def is_readable(path: Path) -> bool:
    """Return whether a path is a file with a known suffix or a folder of DICOM files; hidden ones are not."""
    if path.name.startswith("."):
        return False
    return is_series(path) if path.is_dir() else path.is_file() and suffix_of(path) in READERS


def read_image(path: Path, plane: str = "axial", array_units: Mapping[str, float] | None = None) -> Picture:
    """Read one image.

    Args:
        path: File of a known format, or folder with one DICOM series.
        plane: Plane of the slices of volumes with orientation; see ``volumes.axes_of``.
        array_units: ``scale`` and ``offset`` from stored values to units, for bare arrays; other files store units.

    Raises:
        InputError: The format is unknown, or the file is unreadable, truncated or without an image.
    """
    picture = _read(path, plane, IMAGE_KEYS)
    if not array_units or suffix_of(path) not in ARRAY_SUFFIXES:
        return picture
    scaled = picture.array.astype(np.float32) * array_units["scale"] + array_units["offset"]
    return replace(picture, array=scaled.astype(np.float32))


def read_channels(
    files: Sequence[Path],
    plane: str = "axial",
    array_units: Mapping[str, float] | None = None,
    wanted: Wanted | None = None,
) -> Picture:
    """Read one image whose channels may be in several files, as in nnU-Net folders; see :func:`read_image`.

    Args:
        files: Its files.
        plane: As in :func:`read_image`.
        array_units: As in :func:`read_image`.
        wanted: What a network expects of rasters and photos, in which bands may be chosen and pixels have no data.

    Raises:
        InputError: As in :func:`read_image`, or the files do not match.
    """
    if wanted is not None and any(suffix_of(path) in RASTER_SUFFIXES for path in files):
        return read_scene(files, wanted)
    channels = [read_image(files[0], plane, array_units)]
    plane = channels[0].axes or plane
    channels += [read_image(path, plane, array_units) for path in files[1:]]
    for path, channel in zip(files[1:], channels[1:], strict=True):
        require_same_grid(files[0], channels[0], path, channel)
    photo = wanted is not None and all(suffix_of(path) in PHOTO_SUFFIXES for path in files)
    if len(channels) == 1:
        return with_gaps(channels[0], wanted) if wanted and photo else channels[0]
    array = np.concatenate([channel.array for channel in channels], axis=1)
    notes = tuple(dict.fromkeys(note for channel in channels for note in channel.notes))
    alpha, gaps = channels[-1].alpha, any(channel.gaps for channel in channels)
    picture = replace(channels[0], array=array, gaps=gaps, notes=notes, alpha=alpha)
    return with_gaps(picture, wanted) if wanted and photo else picture


def may_have(path: Path, channels: int) -> bool:
    """Return whether an image file has so many channels, without or with its alpha; rasters are not read."""
    if suffix_of(path) in RASTER_SUFFIXES:
        with open_rasters([path]) as raster:
            count, alpha = raster.count, raster.datasets[-1].colorinterp[-1].name == "alpha"
    else:
        picture = read_image(path)
        count, alpha = picture.array.shape[1], picture.alpha
    return channels in (count, count - alpha)


def read_mask(path: Path, plane: str = "axial", colours: bool = False, key: str | None = None) -> Picture:
    """Read one mask as ``(S, 1, H, W)``, or with the colours of its palette as channels; see :func:`read_image`.

    Args:
        path: File of a known format.
        plane: As in :func:`read_image`.
        colours: Whether colours stand for classes.
        key: Name of the array in h5 and npz files, if not one of the usual ones.

    Raises:
        InputError: As in :func:`read_image`, or other files than these are to have a key.
    """
    if key is None:
        return _read(path, plane, COLOUR_KEYS if colours else MASK_KEYS)
    if suffix_of(path) not in ARRAY_SUFFIXES:
        raise InputError(f"{path}: only h5 and npz files have arrays with names, such as {key}. Name a file of labels.")
    return _read(path, plane, (key,))


def write_mask(path: Path, mask: Array, classes: Sequence[ClassInfo], source: Path, plane: str = "axial") -> None:
    """Write a mask under a temporary name and rename it, so that there is never an incomplete file.

    Args:
        path: Output file; its suffix determines the format, see :func:`mask_path`.
        mask: ``(S, H, W)`` class indices as read in ``plane``; written as the ids of the data set.
        classes: Names and colours, for formats that store them, and ids where they are not the positions.
        source: Image of the mask, whose geometry is copied.
        plane: Plane in which the image was read.

    Raises:
        InputError: The format cannot store a mask of this source.
    """
    if suffix_of(path) != ".dcm":  # its segments are numbered without gaps
        mask = stored_values(mask, classes)
    try:
        with renamed_when_done(path) as temporary:
            WRITERS[suffix_of(path)](temporary, mask, classes, source, plane)
    except ModuleNotFoundError as error:
        raise _without(path, error) from error


def mask_path(source: Path, folder: Path, format: str | None = None) -> Path:
    """Return the file for the mask of ``source``: its name in ``folder``, for volumes without nnU-Net's ``_0000``.

    Args:
        source: Image file.
        folder: Folder of the masks.
        format: A name in ``FORMATS`` for volumes; by default that of the source, PNG for photos, NIfTI for DICOM.

    Raises:
        InputError: The format is unknown.
    """
    suffix = suffix_of(source)
    stem = source.name if suffix == SERIES else source.name[: -len(suffix)]
    if suffix not in ARRAY_SUFFIXES + PHOTO_SUFFIXES + RASTER_SUFFIXES:
        stem = stem.removesuffix("_0000")
    if format is not None:
        return folder / f"{stem}{lookup(FORMATS, format, 'format')}"
    return folder / f"{stem}{MASK_SUFFIXES.get(suffix, suffix)}"


def _no_series(path: Path) -> str:
    """Say what to do with a single DICOM file."""
    role = role_at_a_glance(path)
    if role in CONTOURS:
        return f"{path}: is a DICOM {role}, which is not read as a mask. {CONVERT}"
    return f"{path}: is a single DICOM file ({role or 'a slice'}). Name the folder of its series, {path.parent}."


def _without(path: Path, error: ModuleNotFoundError) -> InputError:
    """Return the error for a library that is not installed, as is possible in the runtime."""
    package = {"PIL": "pillow"}.get(str(error.name), error.name)
    return InputError(f"{path}: this format needs {package}: pip install {package}")


def _read(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    suffix = suffix_of(path)
    if suffix in DICOM_SUFFIXES and is_dicom(path):
        raise InputError(_no_series(path))
    if suffix not in READERS:
        raise InputError(f"{path}: unknown format {suffix or '(no suffix)'}. Known: {', '.join(READERS)}.")
    if suffix != SERIES:
        require_file(path)
    try:
        picture = READERS[suffix](path, plane, keys)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise _without(path, error) from error
    except Exception as error:  # each library has its own exceptions for a damaged file
        raise unreadable(path, suffix, error) from error
    if picture.array.size == 0:
        raise InputError(f"{path}: is empty, with shape {picture.array.shape}.")
    return picture

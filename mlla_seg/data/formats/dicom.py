"""DICOM series: a folder with one series is a volume; checks its orientation, spacing and completeness.

Reorientation to a plane is in ``volumes.py``, as for all volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.picture import Picture
from mlla_seg.data.formats.volumes import picture_of_itk, simple_itk
from mlla_seg.errors import InputError

POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
THICKNESS, DESCRIPTION = "0018|0050", "0008|103e"
TOLERANCE = 0.02
"""Lateral shift per slice, or distance below which two slices coincide, as a fraction of the slice distance."""
ROUNDED = 0.1
"""Deviation of a slice from an even stack, as such a fraction: some scanners round positions to 0.1 mm."""


def is_dicom(path: Path) -> bool:
    """Return whether a file starts like a DICOM file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def is_series(folder: Path) -> bool:
    """Return whether a folder contains DICOM files."""
    return folder.is_dir() and any(is_dicom(path) for path in folder.iterdir() if not path.name.startswith("."))


def read_dicom(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read the series in a folder, in rescaled units such as HU."""
    return picture_of_itk(read_series(path), plane, str(path))


def series_files(folder: Path) -> list[Path]:
    """Return the files of the only series in a folder, from its first slice to its last.

    Raises:
        InputError: There is no series, or there are several.
    """
    reader = simple_itk(folder).ImageSeriesReader
    found = {name: reader.GetGDCMSeriesFileNames(str(folder), name) for name in reader.GetGDCMSeriesIDs(str(folder))}
    if not found:
        raise InputError(f"{folder}: contains no readable DICOM image.")
    if len(found) > 1:
        named = [(_tags(Path(files[0])).get(DESCRIPTION, name), len(files)) for name, files in found.items()]
        listed = ", ".join(f"{description}: {count} files" for description, count in named)
        raise InputError(f"{folder}: contains {len(found)} series ({listed}). Put the one you want in its own folder.")
    return [Path(name) for name in next(iter(found.values()))]


def read_series(folder: Path) -> Any:
    """Read the only series in a folder as a SimpleITK image, and check that its slices are parallel and evenly spaced.

    Raises:
        InputError: There are several series, or slices are missing, duplicate, tilted or of different sizes.
    """
    sitk = simple_itk(folder)
    files = series_files(folder)
    step = _slice_distance(folder, files)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in files])
    image = reader.Execute()
    image.SetSpacing((*image.GetSpacing()[:2], step))
    return image


def _slice_distance(folder: Path, files: Sequence[Path]) -> float:
    """Return the distance between neighbouring slices in millimetres; raise if the series is not a regular stack."""
    tags = [_tags(path) for path in files]
    for key, what in ((ORIENTATION, "orientation"), (PIXEL_SPACING, "pixel spacing"), ("size", "size")):
        for path, tag in zip(files[1:], tags[1:], strict=True):
            if not _alike(tag.get(key), tags[0].get(key)):
                raise InputError(
                    f"{path}: its {what} is {tag.get(key)}, but {files[0].name} has {tags[0].get(key)}. "
                    "The slices of a series must match; remove localisers and other images."
                )
    for path, tag in zip(files, tags, strict=True):
        if POSITION not in tag or ORIENTATION not in tag:
            raise InputError(
                f"{path}: has no position or orientation, so it cannot be placed in the volume. "
                "Remove screenshots and reports."
            )
    if len(files) == 1:
        return float(tags[0].get(THICKNESS, "") or 0) or 1.0
    rows, columns = np.reshape(_numbers(tags[0][ORIENTATION]), (2, 3))
    normal = np.cross(rows, columns)
    positions = np.array([_numbers(tag[POSITION]) for tag in tags])
    along = (positions - positions[0]) @ normal
    steps = np.abs(np.diff(along))
    step = float(np.median(steps))
    if (doubled := np.flatnonzero(steps < TOLERANCE * max(step, 1e-3))).size:
        first = int(doubled[0])
        raise InputError(
            f"{folder}: {files[first].name} and {files[first + 1].name} have the same position. "
            "Put each phase or echo of a scan in its own folder."
        )
    numbers = np.arange(len(along))
    slope, start = np.polyfit(numbers, along, 1)
    if (np.abs(along - slope * numbers - start) > ROUNDED * step).any():
        first = int(np.abs(steps - step).argmax())
        missing = round(steps[first] / step) - 1
        count = f"{missing} slice{'s' if missing > 1 else ''} missing" if missing > 0 else "uneven spacing"
        raise InputError(
            f"{folder}: {count} between {files[first].name} and {files[first + 1].name}, {steps[first]:.3g} mm apart "
            f"where others are {step:.3g} mm. Copy the series again, or resample it to even spacing."
        )
    shift = np.linalg.norm(positions[-1] - positions[0] - along[-1] * normal) / (len(files) - 1)
    if shift > TOLERANCE * step:
        angle = np.degrees(np.arctan2(shift, step))
        raise InputError(
            f"{folder}: the gantry was tilted by {angle:.1f} degrees, which shifts each slice by {shift:.3g} mm. "
            "Resample the series to an orthogonal grid first, for instance with dcm2niix."
        )
    return float(np.abs(slope))


def _alike(value: Any, first: Any) -> bool:
    """Return whether two slices have the same value, up to rounding by the scanner."""
    if not (isinstance(value, str) and isinstance(first, str)):
        return bool(value == first)
    return bool(np.allclose(_numbers(value), _numbers(first), rtol=0, atol=1e-4))


def _tags(path: Path) -> dict[str, Any]:
    """Read the tags of a slice, without its pixels."""
    reader = simple_itk(path).ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    known = [
        key for key in (POSITION, ORIENTATION, PIXEL_SPACING, THICKNESS, DESCRIPTION) if reader.HasMetaDataKey(key)
    ]
    return {"size": reader.GetSize()[:2], **{key: reader.GetMetaData(key).strip() for key in known}}


def _numbers(text: str) -> list[float]:
    return [float(value) for value in text.split("\\")]

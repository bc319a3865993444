"""DICOM series: a folder with one series is a volume.

``dicom_files.py`` accounts for the files of the folder, ``dicom_frames.py`` finds the tags of each slice,
``dicom_agreement.py`` compares them, ``dicom_stack.py`` makes the voxel grid and ``dicom_values.py`` the values.
Reorientation to a plane is in ``volumes.py``, as for all volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlla_seg.data.formats.dicom_agreement import doubts_of, require_one_image
from mlla_seg.data.formats.dicom_files import slices_in
from mlla_seg.data.formats.dicom_frames import frames_of
from mlla_seg.data.formats.dicom_stack import Stack, stack_of
from mlla_seg.data.formats.dicom_values import values_of
from mlla_seg.data.formats.picture import Picture
from mlla_seg.data.formats.volumes import turn_to_plane


def read_dicom(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read the series in a folder, in rescaled units such as HU."""
    stack = read_stack(path)
    array, notes = values_of(stack.frames)
    return turn_to_plane(array, replace(stack.grid, notes=(*stack.grid.notes, *notes)), plane)


def read_stack(folder: Path) -> Stack:
    """Read the geometry of the only series in a folder, from headers alone.

    Raises:
        InputError: A file is damaged, there is no series or several, or the slices are of several images or no even
        stack.
    """
    slices = slices_in(folder)
    frames = [frame for path, header in slices.headers.items() for frame in frames_of(path, header)]
    require_one_image(frames)
    return stack_of(folder, frames, (*slices.notes, *doubts_of(frames)))

"""Geometry of a DICOM series: its frames as parallel, evenly spaced slices, judged by their positions alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlla_seg.data.formats.dicom_frames import DISTINGUISHING, THICKNESS, Frame
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.volumes import LPS, Geometry
from mlla_seg.errors import InputError

COINCIDE = 0.02
"""Distance below which two slices coincide, as a fraction of the slice distance."""
UNEVEN = 0.1
"""Deviation of a slice from an even stack, as such a fraction: some scanners round positions to 0.1 mm."""
TILT = 0.02
"""Lateral shift per slice, as such a fraction, above which the gantry was tilted."""
ALIKE = 1e-4
"""Largest difference of equal values, which scanners round."""


@dataclass(frozen=True)
class Stack:
    """Frames of a series from the first slice to the last, and their voxel grid: columns, rows, slices."""

    frames: tuple[Frame, ...]
    grid: Geometry


def stack_of(folder: Path, frames: Sequence[Frame], notes: Sequence[str] = ()) -> Stack:
    """Sort frames along their normal and determine their grid.

    Args:
        folder: Folder of the series, for messages.
        frames: Frames in any order.
        notes: Notes for the user on the series.

    Raises:
        InputError: Slices differ in size, orientation or pixel spacing, or some are missing, duplicate or tilted.
    """
    for frame in frames:
        frame.require_place()
    _require_alike(frames)
    columns, rows = frames[0].numbers("ImageOrientationPatient").reshape(2, 3)  # along which column, row numbers grow
    normal = np.cross(columns, rows)
    order = np.argsort([frame.numbers("ImagePositionPatient") @ normal for frame in frames], kind="stable")
    frames = [frames[k] for k in order]
    positions = np.array([frame.numbers("ImagePositionPatient") for frame in frames])
    along = (positions - positions[0]) @ normal
    notes = [*notes]
    start = 0.0
    if len(frames) > 1:
        _require_apart(folder, frames, along)
        start, step = _line(folder, frames, along)
        _require_upright(folder, positions, along, normal, step)
    else:
        step = _thickness(frames[0])
        notes += [] if step else ["the thickness of its only slice is not given; 1 mm is assumed"]
        step = step or 1.0
    down, across = frames[0].numbers("PixelSpacing")  # distances of rows and of columns
    affine = np.eye(4)
    affine[:3, :3] = np.stack([columns * across, rows * down, normal * step], axis=1)
    affine[:3, 3] = positions[0] + start * normal
    shape = (int(frames[0].tags["Columns"]), int(frames[0].tags["Rows"]), len(frames))
    return Stack(tuple(frames), Geometry(shape, LPS @ affine, tuple(notes)))


def _require_alike(frames: Sequence[Frame]) -> None:
    first = frames[0]
    for keyword in ("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
        for frame in frames[1:]:
            if not np.allclose(frame.tags[keyword], first.tags[keyword], rtol=0, atol=ALIKE):
                raise InputError(
                    f"{frame.path.parent / frame.name}: its {keyword} is {frame.tags[keyword]}, but {first.name} has "
                    f"{first.tags[keyword]}. The slices of a series must match; remove localisers and other images."
                )


def _require_apart(folder: Path, frames: Sequence[Frame], along: Array) -> None:
    """Raise if slices coincide; tell by which tag they differ."""
    steps = np.diff(along)
    distinct = steps[steps > ALIKE]
    same = steps < COINCIDE * (np.median(distinct) if distinct.size else 1.0)
    if not same.any():
        return
    groups = np.split(np.arange(len(frames)), np.flatnonzero(~same) + 1)
    group = [frames[k] for k in max(groups, key=len)]
    for keyword in DISTINGUISHING:
        values = list(dict.fromkeys(str(frame.tags.get(keyword, "none")) for frame in group))
        if len(values) > 1:
            shown = f"{', '.join(values[:3])}{', ...' if len(values) > 3 else ''}"
            told = (
                f"they differ in {keyword} ({shown}). Put each phase, echo or repetition of a scan in its own folder."
            )
            break
    else:
        told = "no tag tells them apart. Keep one of them."
    many = sum(len(one) > 1 for one in groups)
    raise InputError(
        f"{folder}: {group[0].name} and {group[1].name} have the same position"
        f"{f', as have images at {many} of {len(groups)} positions' if many > 1 else ''}; {told}"
    )


def _line(folder: Path, frames: Sequence[Frame], along: Array) -> tuple[float, float]:
    """Return the place of the first slice and the step of the line fitted through all places.

    Raises:
        InputError: A slice deviates from it by more than a tenth of a step; tells where slices are missing.
    """
    numbers = np.arange(len(along))
    centred = numbers - numbers.mean()
    step = float((centred * along).sum() / (centred**2).sum())  # least squares, exact for exact positions
    start = float(along.mean() - step * numbers.mean())
    if np.abs(along - step * numbers - start).max() <= UNEVEN * step:
        return start, step
    steps = np.diff(along)
    usual = float(np.median(steps[steps < 1.5 * steps.min()]))
    gaps = np.flatnonzero(steps > 1.5 * usual)
    whole = np.abs(steps / usual - np.round(steps / usual)).max() <= 2 * UNEVEN
    first = int(gaps[0]) if gaps.size and whole else int(np.abs(steps - np.median(steps)).argmax())
    if gaps.size and whole:
        missing = round(steps[first] / usual) - 1
        what = f"{missing} slice{'s' if missing > 1 else ''} missing"
    else:
        what, usual = "uneven spacing", float(np.median(steps))
    more = f" ({len(gaps)} such gaps)" if whole and len(gaps) > 1 else ""
    raise InputError(
        f"{folder}: {what} between {frames[first].name} and {frames[first + 1].name}, {steps[first]:.3g} mm apart "
        f"where others are {usual:.3g} mm{more}. Copy the series again, or resample it to even spacing."
    )


def _require_upright(folder: Path, positions: Array, along: Array, normal: Array, step: float) -> None:
    shift = np.linalg.norm(positions[-1] - positions[0] - along[-1] * normal) / (len(positions) - 1)
    if shift > TILT * step:
        angle = np.degrees(np.arctan2(shift, step))
        raise InputError(
            f"{folder}: the gantry was tilted by {angle:.1f} degrees, which shifts each slice by {shift:.3g} mm. "
            "Resample the series to an orthogonal grid first, for instance with dcm2niix."
        )


def _thickness(frame: Frame) -> float:
    """Return the thickness of a single slice in millimetres, 0 if it is not given."""
    return next((float(frame.numbers(key)[0]) for key in reversed(THICKNESS) if frame.tags.get(key)), 0.0)

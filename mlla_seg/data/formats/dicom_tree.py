"""DICOM series in a tree of folders, such as patient/study/series, one series per folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mlla_seg.data.formats.dicom_files import CONTOURS, is_localiser, is_series, other_objects, role_at_a_glance


def find_series(root: Path) -> tuple[list[Path], list[str]]:
    """Find the folders that contain a DICOM series, at any depth.

    Args:
        root: Folder to search; it may itself be a series.

    Returns:
        Folders sorted by path, and notes on DICOM objects that are no images to segment. Series that only serve to plan
        others are left out unless there are no others.
    """
    series: list[Path] = []
    planning: list[Path] = []
    objects: list[Path] = []
    for folder in _folders(root):
        if is_series(folder):
            (planning if is_localiser(folder) else series).append(folder)
        else:
            objects += other_objects(folder)
    if not series:
        series, planning = planning, []
    notes = []
    if planning:
        notes.append(f"{root}: left out {_count(planning, 'localiser')}, such as {planning[0].relative_to(root)}")
    if objects:
        what = _count(objects, "DICOM file") + (" that are no images" if len(objects) > 1 else " that is no image")
        notes.append(f"{root}: left out {what}, such as {objects[0].relative_to(root)}")
    return sorted(series), notes


def label_objects(root: Path) -> list[Path]:
    """Return the DICOM segmentations and structure sets below a folder, which are not read as masks."""
    paths = (path for folder in _folders(root) for path in other_objects(folder))
    return [path for path in paths if role_at_a_glance(path) in CONTOURS]


def _folders(root: Path) -> Iterator[Path]:
    """Yield a folder and all below it, in order; hidden ones are skipped, links are followed once."""
    seen = set()
    for name, below, _ in os.walk(root, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(entry for entry in below if not entry.startswith("."))
        yield Path(name)


def _count(found: list[Path], noun: str) -> str:
    return f"{len(found)} {noun}{'s' if len(found) > 1 else ''}"

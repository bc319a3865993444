"""Images of a folder, a list, a file or a DICOM series, found by the types and numbers of files."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mlla_seg.data.channel_folders import channel_folders
from mlla_seg.data.formats.dicom_files import is_dicom
from mlla_seg.data.formats.dicom_tree import find_series
from mlla_seg.data.formats.drivers import require_file
from mlla_seg.data.formats.locations import refuse_stac
from mlla_seg.data.formats.registry import READERS, SERIES, is_readable, may_have, suffix_of
from mlla_seg.errors import InputError
from mlla_seg.progress import note, note_files
from mlla_seg.texts import read_lines

CHANNEL_SUFFIX = re.compile(r"(.+)_(\d{4})")
"""Name and number of a channel, as nnU-Net names the files of an image."""
LIST = ".txt"
"""Suffix of image lists."""


def find_images(source: Path, channels: int, names: Sequence[str] = ()) -> list[tuple[Path, ...]]:
    """Return the images of a folder, a list, a file or a DICOM series, each as a tuple of its files.

    In folders, files numbered from 0000 as by nnU-Net are channels of one image, and so are files with the names of the
    channels in a folder of their own, both with a note, and DICOM series are found at any depth. A list (``.txt``) has
    one image per line, relative to its own folder, with commas between the files of one image.

    Args:
        source: The folder, list or file.
        channels: Number of channels of an image.
        names: Their names, if files may be told by them.

    Raises:
        InputError: Nothing was found, or a listed file does not exist.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder.")
    if not source.is_dir():
        require_file(source)
        if source.suffix.lower() in (".json", ".geojson"):
            refuse_stac(source)
        return _listed(source) if source.suffix.lower() == LIST else [(source,)]
    files = sorted(path for path in source.iterdir() if path.is_file() and is_readable(path))
    series, notes = find_series(source)
    for said in notes:
        note(f"note: {said}")
    if source in series:
        if files:
            ignored = f"{len(files)} other image{'s' if len(files) > 1 else ''}, such as {files[0].name}"
            note(f"note: {source} is read as a DICOM series; ignored: {ignored}")
        return [(path,) for path in series] if channels == 1 else _grouped(series, channels)
    told = channel_folders(source, names)
    if source in told:
        return [told[source]]
    found = sorted([*files, *series])
    left = _left_out(source, [*found, *told])
    if not found and not told:
        seen = ", ".join(path.name + "/" * path.is_dir() for path in left[:3])
        raise InputError(
            f"{source}: contains no image of a supported format ({', '.join(READERS)}), but {seen or 'no file at all'}."
            + (_searched(names) if any(path.is_dir() for path in left) else "")
        )
    for kind, what in ((False, "have no known format"), (True, "are folders without DICOM, which are not searched,")):
        note_files([path.name for path in left if path.is_dir() is kind], str(source), f"{what} and are skipped")
    if channels == 1:
        return [(path,) for path in found]
    return sorted([*_grouped(found, channels), *told.values()])


def _searched(names: Sequence[str]) -> str:
    """Say what folders inside are searched for."""
    channels = f" or for files with the names of all channels ({', '.join(names)})" if len(names) > 1 else ""
    return f" Folders inside are only searched for DICOM{channels}."


def _left_out(source: Path, found: Sequence[Path]) -> list[Path]:
    """Return what in a folder holds none of the images found, except DICOM objects, which have notes of their own."""
    used = {source / path.relative_to(source).parts[0] for path in found}
    entries = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    return [path for path in entries if path not in used and not is_dicom(path)]


def _grouped(files: Sequence[Path], channels: int) -> list[tuple[Path, ...]]:
    """Return files that are numbered exactly 0000 to C - 1 as channels of one image, and all others on their own.

    Numbers alone do not make channels: a camera numbers its photos alike. Files that have all channels are images.
    """
    numbered: dict[tuple[Path, str, str], dict[int, Path]] = defaultdict(dict)
    for path in files:
        suffix = suffix_of(path)
        if match := CHANNEL_SUFFIX.fullmatch(path.name if suffix == SERIES else path.name[: -len(suffix)]):
            numbered[path.parent, match[1], suffix][int(match[2])] = path
    groups = [tuple(own[k] for k in range(channels)) for own in numbered.values() if set(own) == set(range(channels))]
    if groups and _has_all(groups[0][0], channels):
        groups = []
    if groups:
        names = f"{groups[0][0].name} ... {groups[0][-1].name}"
        count = f"{len(groups)} image{'s' if len(groups) > 1 else ''}"
        note(f"note: {count} of {channels} channels by the numbers of the files, such as {names}")
    grouped = {path for group in groups for path in group}
    return sorted([*groups, *((path,) for path in files if path not in grouped)])


def _has_all(path: Path, channels: int) -> bool:
    """Return whether a file has all channels by itself; a file that cannot be read is reported when its turn comes."""
    try:
        return may_have(path, channels)
    except InputError:
        return False


def _listed(source: Path) -> list[tuple[Path, ...]]:
    images = [_files_of(line, source.parent) for line in read_lines(source)]
    absent = [path for files in images for path in files if not os.path.exists(path)]
    if absent or not images:
        raise InputError(f"{source}: " + (f"lists {absent[0]}, which does not exist." if absent else "lists no image."))
    return images


def _files_of(line: str, folder: Path) -> tuple[Path, ...]:
    """Return the files of a line of a list; a comma may be part of the name of one.

    ``os.path.exists`` takes lines of any length, ``Path.exists`` raises for names that are too long for the system.
    """
    whole = folder / line
    return (whole,) if os.path.exists(whole) else tuple(folder / name.strip() for name in line.split(","))

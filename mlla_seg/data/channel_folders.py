"""Folders that hold one image with a file for each channel, told by the names of the channels.

Such are the bands of Sentinel-2 in a folder for each scene, or T1 and FLAIR in a folder for each patient.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlla_seg.data.formats.bands import name_parts, simple
from mlla_seg.data.formats.registry import is_readable, may_have
from mlla_seg.errors import InputError
from mlla_seg.progress import note

Files = tuple[Path, ...]


def channel_folders(source: Path, channels: Sequence[str]) -> dict[Path, Files]:
    """Return the files of each image in a folder, or in the folders directly in it, in the order of the channels.

    Args:
        source: The folder. If it holds one image by itself, that is the only one.
        channels: Names of the channels, of which there must be two or more.
    """
    if len(channels) < 2:
        return {}
    own = _channels_in(source, channels)
    folders = [source] if own else sorted(path for path in source.iterdir() if path.is_dir() and path.name[0] != ".")
    there = {folder: own if folder == source else _channels_in(folder, channels) for folder in folders}
    found = {folder: tuple(files[name] for name in channels) for folder, files in there.items() if files}
    if found:
        folder, files = next(iter(found.items()))
        shown = f"{files[0].relative_to(folder.parent)} ... {files[-1].name}"
        count = f"{len(found)} image{'s' if len(found) > 1 else ''}"
        note(f"note: {count} of {len(channels)} channels by the names of the files in a folder, such as {shown}")
    used = {path for files in found.values() for path in files}
    beside = [path for folder in found for path in sorted(folder.iterdir()) if is_readable(path)]
    if rest := [path for path in beside if path not in used]:
        note(f"note: {len(rest)} files beside them are no channels of the network and ignored, such as {rest[0]}")
    return found


def _channels_in(folder: Path, channels: Sequence[str]) -> Mapping[str, Path] | None:
    """Return the file of each channel; none unless there is exactly one for each."""
    names = {simple(channel): channel for channel in channels}
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_readable(path) and (told := name_parts(path.name) & names.keys()):
            found[names[max(told, key=len)]].append(path)  # red edge, not red
    alone = {channel: paths[0] for channel, paths in found.items() if len(paths) == 1}
    if len(alone) < len(channels):
        return None
    try:
        return None if may_have(alone[channels[0]], len(channels)) else alone  # or images that are called red and green
    except InputError:  # which is reported when its turn comes
        return alone

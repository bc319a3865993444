"""Files below a folder, listed once, and looked up by the templates of a card.

Links to files and folders are followed, as they are the user's own choice. Hidden files and folders are left out.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Formatter

from mlla_seg.data.formats.dicom_files import is_series
from mlla_seg.data.formats.registry import READERS, suffix_in
from mlla_seg.data.formats.vector_sources import VECTOR_SUFFIXES, is_vector
from mlla_seg.errors import InputError

KNOWN = (*READERS, *VECTOR_SUFFIXES)
"""Suffixes of files that a template may stand for."""


def uniform(name: str) -> str:
    """Return a name with its suffix in lower case."""
    suffix = suffix_in(name)
    return name[: len(name) - len(suffix)] + suffix


def stem_of(name: str) -> str:
    """Return a name without its suffix."""
    return name[: len(name) - len(suffix_in(name))]


def is_image(name: str) -> bool:
    """Return whether a name has the suffix of a known format."""
    return suffix_in(name) in READERS


@dataclass(frozen=True)
class Tree:
    """Names below a folder, relative to it and with ``/`` between folders."""

    root: Path
    names: Sequence[str]
    """Files, and the folders in ``series``; sorted."""
    series: Collection[str]
    """Folders that hold a DICOM series, if asked for."""
    broken: Sequence[str]
    """Links that lead nowhere."""
    special: Sequence[str] = ()
    """Named pipes, sockets and devices, which are not read."""

    @cached_property
    def _uniform(self) -> list[tuple[str, str]]:
        """Names with lower-case suffixes, each with the name as it is; sorted."""
        return sorted((uniform(name), name) for name in self.names)

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        """Names by their form with a lower-case suffix."""
        alike = defaultdict(list)
        for name, own in self._uniform:
            alike[name].append(own)
        return alike

    def _starting(self, start: str) -> Iterator[tuple[str, str]]:
        place = bisect_left(self._uniform, (start,))
        while place < len(self._uniform) and self._uniform[place][0].startswith(start):
            yield self._uniform[place]
            place += 1

    def matching(self, template: str, groups: Mapping[str, str]) -> list[str]:
        """Return the names that a card's template stands for, whatever the case of their suffix.

        A ``*`` at the end of a suffix, as in ``{case}.*`` or ``{case}.tif*``, stands for the rest of one known suffix,
        and anywhere else for any text within a name.
        """
        parts = filled(template, groups)
        if len(parts) == 1:
            return self._alike.get(uniform(parts[0]), [])
        if len(parts) == 2 and not parts[1] and (begun := _begun_suffix(template)):
            start = parts[0][: -len(begun)] + begun.lower()
            found = [(name, own) for name, own in self._starting(start) if len(stem_of(name)) <= len(start)]
        else:
            whole = re.compile("[^/]*".join(map(re.escape, [*parts[:-1], uniform(parts[-1])])), re.DOTALL)
            found = [(name, own) for name, own in self._starting(parts[0]) if whole.fullmatch(name)]
        return [own for name, own in found if is_image(name) or is_vector(name) or own in self.series]


def filled(template: str, groups: Mapping[str, str]) -> list[str]:
    """Return a template with the groups of a pattern filled in, as the texts between its ``*``."""
    parts = [""]
    for text, field, spec, _ in Formatter().parse(template):
        first, *others = text.split("*")
        parts[-1] += first
        parts += others
        if field is not None:
            parts[-1] += format(groups.get(field, ""), spec or "")
    return parts


def _begun_suffix(template: str) -> str:
    """Return the part of a known suffix at which a template's last ``*`` stands, such as ``.`` or ``.tif``."""
    before = template.rpartition("*")[0]
    dots = (match.start() for match in re.finditer(r"\.", before))
    begun = (before[dot:] for dot in dots)
    return next((part for part in begun if any(suffix.startswith(part.lower()) for suffix in KNOWN)), "")


def list_tree(root: Path, series: bool = False) -> Tree:
    """List the files below a folder; each folder is read once.

    Args:
        root: The folder.
        series: List folders that hold a DICOM series too.

    Raises:
        InputError: A folder cannot be read.
    """
    names: list[str] = []
    folders: list[str] = []
    broken: list[str] = []
    special: list[str] = []

    def visit(folder: Path, before: str, above: frozenset[tuple[int, int]]) -> None:
        try:
            place = os.stat(folder)
            if (own := (place.st_dev, place.st_ino)) in above:  # a link to a folder it lies in
                return
            with os.scandir(folder) as found:
                entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise InputError(f"{folder}: this folder cannot be read ({error.strerror}).") from error
        for entry in entries:
            name = before + entry.name
            if entry.is_symlink() and not os.path.exists(entry):
                broken.append(name)
            elif entry.is_dir():
                visit(folder / entry.name, f"{name}/", above | {own})
            elif entry.is_file():
                names.append(name)
            else:
                special.append(name)
        if series and before and any(not is_image(entry.name) for entry in entries) and is_series(folder):
            folders.append(before[:-1])

    visit(root, "", frozenset())
    return Tree(root, sorted(names + folders), frozenset(folders), broken, special)

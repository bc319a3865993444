"""Whether the files of a case are those that it was built from.

Size and times of every file that reading the case opened are compared; programs can restore the time of modification,
but not that of the last change of the file (ctime). Where they differ, as for a copy of the data set, the content
decides. Names that appear beside the files count too: a new world file moves a scene.
"""

from __future__ import annotations

import os
import time
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlla_seg.data.cases import Case
from mlla_seg.data.formats.registry import suffix_in
from mlla_seg.data.formats.source_files import digest_of_files, files_of
from mlla_seg.data.store.case import Stamp, stamp_of
from mlla_seg.data.store.entry import File, StoredSources
from mlla_seg.errors import InputError

SETTLED_NS = 2 * 10**9
"""Age from which a file's times tell every change; some file systems store them to two seconds."""
UNSETTLED: Stamp = (-1, 0, 0)
"""Stands for the stamp of a file that is so new that its content is compared once more."""


class SourceCheck:
    """Comparison of cases with what was stored of their sources. Each folder is listed once.

    Args:
        root: Root of the data.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._listed: dict[str, Sequence[str]] = {}

    def unchanged(self, case: Case, stored: StoredSources) -> bool:
        """Return whether all files are in place with their sizes and times, without reading them."""
        if stored.named != self._named(case):
            return False
        try:
            same = all(stamp_of(os.path.join(self.root, file.name)) == file.stamp for file in stored.opened)
        except OSError:
            return False
        return same and stored.beside == self._beside(case, stored.opened)

    def take(self, case: Case) -> StoredSources:
        """Return the sources of a case as they are now.

        Stamps are taken before digests, and both before the case is read: a change in between is noticed next time.
        """
        found: dict[Path, None] = {}
        for path in case.files:
            try:
                found.update(dict.fromkeys(files_of(path)))
            except (InputError, OSError):  # reading it tells what is wrong
                found[path] = None
        settled = time.time_ns() - SETTLED_NS
        opened = []
        for path in filter(Path.is_file, found):
            stamp = stamp_of(path)
            trusted = stamp if stamp[2] < settled else UNSETTLED
            opened.append(File(self._name(path), trusted, digest_of_files([path])))
        return StoredSources(self._named(case), tuple(opened), self._beside(case, opened))

    def _named(self, case: Case) -> tuple[str, ...]:
        return tuple(map(self._name, case.files))

    def _name(self, path: Path) -> str:
        """Return a path relative to the root if it is below it."""
        text = str(path)
        return text[len(self.root) + 1 :] if text.startswith(f"{self.root}/") else os.path.abspath(text)

    def _beside(self, case: Case, opened: Iterable[File]) -> int:
        """Return the CRC-32 of all names in folders of slices, and of those that start like a file that was opened."""
        found: dict[str, None] = {}
        files = {file.name: None for file in opened}
        for name in {**files, **dict.fromkeys(self._named(case))}:
            path = os.path.join(self.root, name)
            if name not in files:  # a folder of slices
                found.update(dict.fromkeys(self._names_in(path)))
                continue
            folder, _, name = path.rpartition("/")
            stem, names = name[: len(name) - len(suffix_in(name))], self._names_in(folder)
            for start in (f"{stem}.", f"{stem}_RPC", f"{stem}_rpc"):
                for place in range(bisect_left(names, start), len(names)):
                    if not names[place].startswith(start):
                        break
                    found[names[place]] = None
        return zlib.crc32("\0".join(found).encode("utf-8", "surrogateescape"))

    def _names_in(self, folder: str) -> Sequence[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = sorted(os.listdir(folder))
            except OSError:
                self._listed[folder] = ()
        return self._listed[folder]


def difference(before: StoredSources, now: StoredSources) -> str:
    """Return the name of a file whose content is another, or that is new or gone; empty if there is none."""
    if before.named != now.named:
        return next((name for name in now.named if name not in before.named), now.named[0])
    known, found = ({file.name: file.digest for file in sources.opened} for sources in (before, now))
    return next((name for name in {**known, **found} if known.get(name) != found.get(name)), "")

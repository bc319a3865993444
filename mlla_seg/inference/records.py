"""Records of how masks were made, in a hidden folder ``.mlla_seg`` beside them.

A record is a small file per mask, ``.mlla_seg/NAME.json``: the job (:mod:`mlla_seg.inference.jobs`), the digest of the
mask, and the sizes of the files beside it and of those that an earlier job has left there (``earlier``). It is written
twice: before a mask is made, without the digest, and after. So a mask whose making was interrupted is never taken for
finished, or for that of another job. Programs that list the masks do not see records; masks of others have none.

A process holds a lock on the record while it makes a mask, so two processes may share one output folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

from mlla_seg.atomic import replace_content
from mlla_seg.data.formats.source_files import digest_of_files
from mlla_seg.inference.jobs import Job
from mlla_seg.locks import held
from mlla_seg.texts import read_json

FOLDER = ".mlla_seg"


class Found(Enum):
    """What an existing mask is, compared with what a job would make."""

    ABSENT = "there is none"
    UNFINISHED = "the same job made it, or was about to, but not all files are there"
    SAME = "the same job made it"
    OTHER = "another job made it"
    UNKNOWN = "it has no record, or was changed since"


class Record:
    """Record of one mask.

    Args:
        paths: The mask and the files beside it.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.path = paths[0].parent / FOLDER / f"{paths[0].name}.json"
        self.reasons: list[str] = []
        """In words, how the job that made an existing mask differs, after :meth:`compare`."""
        self.outdated: list[Path] = []
        """Files beside an overwritten mask that were not made anew with it, after :meth:`making`."""
        self.notes: Sequence[Sequence[str]] = ()
        """Keys and texts of notes on the image, which are stored for the process that prints for all."""

    def compare(self, job: Job) -> Found:
        """Return what is known of the mask; reads it, and if need be its sources."""
        if not self.paths[0].exists():
            return Found.ABSENT
        stored = self._stored()
        finished = "mask" in stored
        if not stored or (finished and stored["mask"] != digest_of_files(self.paths[:1])):
            return Found.UNKNOWN
        sizes = {path.name: path.stat().st_size for path in self.paths[1:] if path.exists()}
        complete = finished and len(sizes) == len(self.paths) - 1 and sizes.items() <= stored["beside"].items()
        self.reasons = job.differences(stored["job"], files=complete)
        if self.reasons:
            return Found.OTHER
        return Found.SAME if complete else Found.UNFINISHED

    def foreign(self) -> list[Path]:
        """Return existing files of this mask that this program has not made, or that were changed since."""
        stored = self._stored()
        found = self._foreign(stored)
        return found if not found or self._stored() == stored else self.foreign()  # another process has just made it

    def _foreign(self, stored: dict[str, Any]) -> list[Path]:
        existing = [path for path in self.paths if path.exists()]
        if stored and "mask" not in stored:  # it was being made when the program was killed
            return []
        sizes, whole = {**stored.get("earlier", {}), **stored.get("beside", {})}, digest_of_files(self.paths[:1])
        return [
            path
            for path in existing
            if (sizes.get(path.name) != path.stat().st_size if path != self.paths[0] else stored.get("mask") != whole)
        ]

    def stored_notes(self) -> list[tuple[str, str]]:
        """Return keys and texts of the notes on the image, by whichever process has made the mask."""
        return [(key, text) for key, text in self._stored().get("notes", [])]

    def made_since(self, moment: float) -> bool:
        """Return whether the mask was finished, or begun, after a moment in seconds since the epoch."""
        return bool(self._stored().get("time", 0) > moment)

    @property
    def finished(self) -> bool:
        """Whether a mask was finished; it may have been changed since."""
        return "mask" in self._stored()

    @contextmanager
    def locked(self, wait: float = 0, tell: bool = False) -> Iterator[None]:
        """Keep other processes from making the same mask.

        Args:
            wait: Seconds to wait for another process that makes it.
            tell: Print a note if it is waited for.

        Raises:
            Held: Another process is still making it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mask = self.paths[0]
        try:
            told = f"note: {mask}: {{}} is making it; waiting for its end.".format if tell else None
            with held(self.path, lambda holder: f"{mask}: {holder} is making it.", wait, told):
                yield
        finally:
            with suppress(OSError):  # there are records in it
                self.path.parent.rmdir()

    @contextmanager
    def making(self, job: Job) -> Iterator[None]:
        """Record that the mask is being made by a job, and at the end that it was.

        On an error the earlier record comes back if its mask is still there, and none stays without a mask.
        """
        before = self._stored()
        known = {**before.get("earlier", {}), **before.get("beside", {})}
        self._write({"job": job.to_dict(), "earlier": known})
        try:
            yield
        except BaseException:
            if before and before.get("mask") == digest_of_files(self.paths[:1]):
                self._write(before)
            elif not self.paths[0].exists():
                self.path.unlink(missing_ok=True)
            raise
        beside = {path.name: path.stat().st_size for path in self.paths[1:]}
        earlier = (self.paths[0].with_name(name) for name in before.get("beside", {}) if name not in beside)
        self.outdated = [path for path in earlier if path.exists() and job.differences(before["job"], files=False)]
        kept = {name: size for name, size in known.items() if name not in beside}
        mask = digest_of_files(self.paths[:1])
        told = {"notes": list(self.notes)} if self.notes else {}
        self._write({"job": job.to_dict(), "mask": mask, "beside": beside, "earlier": kept, **told})

    def _stored(self) -> dict[str, Any]:
        """Return the content; empty if there is none, or it is unreadable."""
        try:
            content = read_json(self.path)
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) and isinstance(content.get("job"), dict) else {}

    def _write(self, content: dict[str, Any]) -> None:
        replace_content(self.path, json.dumps({"time": time.time(), **content}).encode())

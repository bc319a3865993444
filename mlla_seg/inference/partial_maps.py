"""Partial results of a scene, in a folder beside its mask, from which an interrupted run resumes.

They are kept by parts of the scene, each in files of its own, which one process at a time fills. So several processes,
also on several machines, may compute one scene: nobody writes to a file, or a page of it, that another writes to.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.atomic import replace_content
from mlla_seg.data.formats.geotiff_masks import FULL, NODATA
from mlla_seg.data.formats.picture import Array
from mlla_seg.disk_space import full_disk_told, reserved_array
from mlla_seg.errors import InputError
from mlla_seg.inference.jobs import Job
from mlla_seg.locks import hold, lock_file
from mlla_seg.progress import note_own
from mlla_seg.texts import read_json, read_text

JOB = "job"
"""File with the job of the results. Without it, the other files mean nothing: it is written last and removed first."""
MOST_PARTS = 16
"""Parts of a stripe, at most; a process that takes one in the middle computes the windows above it once more."""
REMOVALS = 5
"""Attempts to remove a folder in which another process may be creating a lock."""


@dataclass(frozen=True)
class MapPart:
    """Some row bands of a stripe.

    Args:
        columns: First and end column.
        first: Number of its first band among those of the stripe.
        bands: First and end row of each band.
    """

    columns: tuple[int, int]
    first: int
    bands: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> tuple[int, int]:
        """First and end row."""
        return self.bands[0][0], self.bands[-1][1]

    def continues(self, other: MapPart) -> bool:
        """Return whether it lies directly below another."""
        return self.columns == other.columns and self.first == other.first + len(other.bands)


def parts_of(stripes: Sequence[tuple[int, int]], bands: Sequence[tuple[int, int]]) -> list[MapPart]:
    """Divide the stripes of a scene, whatever the number of processes, so that any can continue others' parts."""
    count = -(-len(bands) // MOST_PARTS)
    firsts = range(0, len(bands), count)
    return [MapPart(columns, first, tuple(bands[first : first + count])) for columns in stripes for first in firsts]


def partial_folder(output: Path) -> Path:
    """Return the folder of the partial results of a mask."""
    return output.with_name(f".{output.name}.partial")


class Gone(InputError):
    """The results are no longer those of this job: the map is finished, or another job has started over."""

    def __init__(self) -> None:
        super().__init__("its partial results were removed while it was made. Run the same command again.")


class PartialMap:
    """Finished row bands of the parts of a scene, kept on the disk.

    A run continues what an earlier run of the same job has finished. For another job it starts over, with a note if
    anything is lost.

    Args:
        output: Path of the mask.
        job: What decides the labels.
        layout: How the scene is divided: ``shape`` (height and width), ``stripes``, ``bands``, ``window``, ``size``.
        outputs: Number of the network's outputs whose probabilities are kept; 0 to keep none.
        joining: Another process has the mask; take part in it.

    Raises:
        Gone: There are no results of this job to take part in.
    """

    def __init__(
        self,
        output: Path,
        job: Job,
        layout: Mapping[str, Any],
        outputs: int = 0,
        joining: bool = False,
    ) -> None:
        self.folder = partial_folder(output)
        self.parts = parts_of(layout["stripes"], layout["bands"])
        self.outputs = outputs
        if self.folder.is_symlink() and not joining:  # nothing is written elsewhere
            self.folder.unlink()
        layout = json.loads(json.dumps({**layout, "parts": len(self.parts), "outputs": outputs}))
        stored = self._stored()
        reasons = [] if stored is None else _reasons(job, layout, stored)
        if joining and (stored is None or reasons):
            raise Gone
        if stored is None or reasons or not self._whole():
            if reasons and (lost := self._lost()):
                note_own(
                    f"note: {output.name}: an interrupted run had finished {lost} row bands, made with "
                    f"{', '.join(reasons)}; starting over."
                )
            self._clear()
            with full_disk_told(output, parts=[self.folder]):
                for k, part in enumerate(self.parts):
                    for name, (dtype, shape) in self._arrays(part).items():
                        reserved_array(self._file(k, name), dtype, shape)
                replace_content(self.folder / JOB, json.dumps({"job": job.to_dict(), "layout": layout}).encode())
        self._text = self._read()

    def _read(self) -> str:
        try:
            return read_text(self.folder / JOB)
        except (OSError, ValueError):
            return ""

    def _stored(self) -> dict[str, Any] | None:
        """Return the job and layout of the results in the folder; None if there are none."""
        try:
            earlier = not read_text(self.folder / JOB).startswith("{")  # versions that stored a digest
            return {} if earlier else read_json(self.folder / JOB)
        except (OSError, ValueError):
            return None

    def _lost(self) -> int:
        """Return the number of row bands that were finished, also in another division."""
        return sum(int(np.load(path)[0]) for path in self.folder.glob("*.done.npy"))

    def _clear(self) -> None:
        """Empty the folder; processes that still compute a part for one that was killed finish it first."""
        (self.folder / JOB).unlink(missing_ok=True)
        for path in self.folder.glob("*.done.npy"):
            if lock_file(path).exists():
                hold(path, _refusal, math.inf).release()
        _remove(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _arrays(self, part: MapPart) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """Return type and shape of the arrays of a part, by name."""
        height, width = part.rows[1] - part.rows[0], part.columns[1] - part.columns[0]
        arrays: dict[str, tuple[Any, tuple[int, ...]]] = {
            "labels": (np.uint8, (height, width)),
            "done": (np.int64, (1,)),
        }
        return arrays | ({"probabilities": (np.uint8, (self.outputs, height, width))} if self.outputs else {})

    def _whole(self) -> bool:
        """Return whether all files are there; a power cut may have taken some, which are not waited for."""
        for k, part in enumerate(self.parts):
            for name, (dtype, shape) in self._arrays(part).items():
                path = self._file(k, name)
                if not path.is_file() or path.stat().st_size <= np.dtype(dtype).itemsize * math.prod(shape):
                    return False
        return True

    def finished(self) -> int:
        """Return the number of row bands that are finished, by any process."""
        return sum(map(self.done, range(len(self.parts))))

    def done(self, k: int) -> int:
        """Return the number of finished row bands of a part.

        Raises:
            Gone: See there.
        """
        try:
            return int(np.load(self._file(k, "done"))[0])
        except FileNotFoundError as error:
            raise Gone from error

    def unfinished(self) -> list[int]:
        """Return the parts that are not finished."""
        return [k for k, part in enumerate(self.parts) if self.done(k) < len(part.bands)]

    @contextmanager
    def taken(self, k: int, wait: float = 0, waiting: str = "") -> Iterator[None]:
        """Keep other processes from a part.

        Args:
            k: The part.
            wait: Seconds to wait for another process that has it.
            waiting: What is being made, for a note that it is waited for; without it, there is none.

        Raises:
            Held: Another process has it.
            Gone: See there.
        """
        path = self._file(k, "done")
        if not path.exists():  # a lock would make the folder anew
            raise Gone

        def told(holder: str) -> str:
            return f"note: {waiting}: {holder} is making it; waiting for its end."

        lock = hold(path, _refusal, wait, told if waiting else None)
        try:
            if self._read() != self._text:
                raise Gone
            yield
        finally:
            lock.release()
            with suppress(OSError):
                if not path.exists():
                    lock_file(path).unlink(missing_ok=True)
                    self.folder.rmdir()

    def keep(self, k: int, labels: Array, probabilities: Array | None, present: Array) -> None:
        """Store the next row band of a part; it counts as done only once it is written.

        Args:
            k: The part.
            labels: ``(rows, columns)`` class indices.
            probabilities: ``(K, rows, columns)`` of the network's outputs, if they are kept.
            present: ``(rows, columns)``, False where the scene has no data.
        """
        done = self.done(k)
        top, end = self.parts[k].bands[done]
        rows = slice(top - self.parts[k].rows[0], end - self.parts[k].rows[0])
        self._write(k, "labels", (rows,), np.where(present, labels, NODATA))
        if probabilities is not None:
            stored = np.rint(FULL * probabilities).astype(np.uint8)
            self._write(k, "probabilities", (slice(None), rows), np.where(present, stored, NODATA))
        self._write(k, "done", (), np.array([done + 1]))

    def labels(self, rows: slice, columns: slice) -> Array:
        """Return a rectangle of the labels."""
        return self._gathered("labels", rows, columns)[0]

    def probabilities(self, rows: slice, columns: slice) -> Array:
        """Return a rectangle of the probabilities ``(K, rows, columns)``, as bytes."""
        return self._gathered("probabilities", rows, columns)

    def remove(self) -> None:
        """Remove the folder."""
        (self.folder / JOB).unlink(missing_ok=True)
        _remove(self.folder)

    def _gathered(self, name: str, rows: slice, columns: slice) -> Array:
        """Return a rectangle ``(K, rows, columns)`` from the parts that it lies in."""
        count = self.outputs if name == "probabilities" else 1
        found = np.empty((count, rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        for k, part in enumerate(self.parts):
            top, end = _common(part.rows, rows)
            left, right = _common(part.columns, columns)
            if top < end and left < right:
                there = (slice(None), *_within((top, left), (end, right), (rows.start, columns.start)))
                here: Any = (..., *_within((top, left), (end, right), (part.rows[0], part.columns[0])))
                found[there] = self._array(k, name)[here]
        return found

    def _file(self, k: int, name: str) -> Path:
        return self.folder / f"{k:04}.{name}.npy"

    def _array(self, k: int, name: str, mode: Any = "r") -> Array:
        """Memory-map an array anew each time, so that used pages do not stay in memory."""
        return np.load(self._file(k, name), mmap_mode=mode)

    def _write(self, k: int, name: str, place: tuple[slice, ...], values: Array) -> None:
        mapped = self._array(k, name, "r+")
        mapped[place] = values
        mapped.flush()  # type: ignore[attr-defined]  # of a memory-mapped array


def _refusal(holder: str) -> str:
    return f"a part of the map is being made by {holder}."


def _common(own: tuple[int, int], asked: slice) -> tuple[int, int]:
    """Return first and end index that two ranges have in common; the end lies below if there are none."""
    return max(own[0], asked.start), min(own[1], asked.stop)


def _within(first: Sequence[int], end: Sequence[int], corner: Sequence[int]) -> tuple[slice, ...]:
    """Return a rectangle as seen from a corner."""
    return tuple(slice(a - n, b - n) for a, b, n in zip(first, end, corner, strict=True))


def _remove(folder: Path) -> None:
    for _ in range(REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


def _reasons(job: Job, layout: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Return in words why stored results are not those of a job; empty if they are."""
    if not stored:
        return ["an earlier version of mlla_seg"]
    found = job.differences(stored["job"], files=False)
    had = stored["layout"]
    if bool(had["outputs"]) != bool(layout["outputs"]):
        found.append("--probabilities " + ("true instead of false" if had["outputs"] else "false instead of true"))
    elif had != layout and not found:
        found.append("another division into windows")
    return found

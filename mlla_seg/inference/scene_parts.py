"""The parts of a scene, computed by one process or by several, while the disk is read and written at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from mlla_seg.inference.partial_maps import MapPart, PartialMap
from mlla_seg.inference.ranks import Ranks
from mlla_seg.inference.sliding_window import Read
from mlla_seg.locks import Held

PATIENCE = 0.5
"""Seconds between two looks at the parts that other processes have."""
Bands = Callable[[MapPart, int], Iterator[tuple[int, Any]]]
"""Returns first row and logits of the bands of a stripe, from one of its bands on."""
Store = Callable[[int, int, Any], Callable[[], None]]
"""Takes number of a part, first row and logits of its next band, and returns what writes them to the disk."""


class ReadAhead:
    """Reads parts of a raster, and the one below each while the network runs.

    Args:
        read: Reads a part.
        tops: First rows in which windows begin, in order.
        disk: Single thread that alone reads and writes.
    """

    def __init__(self, read: Read, tops: Sequence[int], disk: Executor) -> None:
        self.read = read
        self.disk = disk
        self.following = dict(pairwise(tops))
        self.ready: tuple[Sequence[int], Future[Any]] | None = None

    def __call__(self, corner: Sequence[int], sides: Sequence[int]) -> Any:
        """Return the pixels ``(C, *sides)`` from a corner on."""
        ahead, self.ready = self.ready, None
        future = ahead[1] if ahead and ahead[0] == corner else self.disk.submit(self.read, corner, sides)
        found = future.result()
        if (top := self.following.get(corner[0])) is not None:
            below = (top, *corner[1:])
            self.ready = (below, self.disk.submit(self.read, below, sides))
        return found


class PartWorker:
    """Computes the parts that no other process has.

    Args:
        partial: The parts and their results.
        bands: See :data:`Bands`.
        store: See :data:`Store`.
        disk: Single thread that alone reads and writes.
        watch: Called after each band, and while others are waited for.
    """

    def __init__(
        self, partial: PartialMap, bands: Bands, store: Store, disk: Executor, watch: Callable[[], None]
    ) -> None:
        self.partial = partial
        self.bands = bands
        self.store = store
        self.disk = disk
        self.watch = watch
        self.writing: Future[None] | None = None

    def run(self, ranks: Ranks, waiting: str = "") -> None:
        """Return when all parts are finished, by this process or by others.

        Args:
            ranks: This process among those of the command.
            waiting: What is being made, for a note if another process is waited for.

        Raises:
            Gone: Another process has finished the map, or started over.
        """
        while left := self.partial.unfinished():
            order = [k for k in ranks.in_turn(len(self.partial.parts)) if k in left]
            if not any(self._take(k) for k in order):
                try:
                    with self.partial.taken(order[0], PATIENCE, waiting):
                        pass
                except Held:
                    waiting = ""  # said once
            self.watch()

    def _take(self, k: int) -> bool:
        """Compute a part, and those below as long as no other process has them; return whether any was computed."""
        try:
            with ExitStack() as stack:
                self._lock(k, stack)
                return self._compute(k, stack)
        except Held:
            return False

    def _compute(self, k: int, stack: ExitStack) -> bool:
        parts, done = self.partial.parts, self.partial.done(k)
        if done == len(parts[k].bands):
            return False
        for top, logits in self.bands(parts[k], parts[k].first + done):
            self._write(self.store(k, top, logits))
            done += 1
            if done < len(parts[k].bands):
                continue
            stack.close()
            if not (k + 1 < len(parts) and parts[k + 1].continues(parts[k])):
                break
            k, done = k + 1, 0
            try:
                self._lock(k, stack)
            except Held:
                break
            if self.partial.done(k):
                break
        return True

    def _lock(self, k: int, stack: ExitStack) -> None:
        """Take a part, which is given back once all is written."""
        stack.enter_context(self.partial.taken(k))
        stack.callback(self._written)

    def _write(self, write: Callable[[], None]) -> None:
        """Write a band while the network goes on, once the band before is written."""
        self._written()
        self.writing = self.disk.submit(write)

    def _written(self) -> None:
        if self.writing is not None:
            before, self.writing = self.writing, None
            before.result()
            self.watch()

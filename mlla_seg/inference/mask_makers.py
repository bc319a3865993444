"""The masks of many images: while the network runs, the next image is read and the previous mask is written.

A reader thread takes and reads an image that no other process has taken; a writer thread post-processes and writes a
mask. Neither is more than one image ahead of or behind the network, so memory is bounded and messages keep their order.
This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

from mlla_seg.data.formats.claims import free_memory
from mlla_seg.data.formats.locations import Location
from mlla_seg.data.formats.picture import Picture, gaps_of, without_pixels
from mlla_seg.disk_space import FullDisk
from mlla_seg.inference.base import CaseSegmenter
from mlla_seg.inference.jobs import Job, job_of
from mlla_seg.inference.kept_masks import KeptMasks
from mlla_seg.inference.mask_tasks import Outcome, Task
from mlla_seg.inference.partial_maps import Gone
from mlla_seg.inference.ranks import Ranks
from mlla_seg.inference.records import Record
from mlla_seg.inference.scene_parts import PATIENCE
from mlla_seg.inference.scenes import MapOptions, compute_scene, scene_job
from mlla_seg.inference.targets import is_scene
from mlla_seg.locks import Held
from mlla_seg.progress import note, progress

ROOM = 4
"""An image is read early if free memory is at least this many times the size of the image before."""


@dataclass
class Begun:
    """A mask that this process has locked and is about to make."""

    record: Record
    job: Job
    picture: Picture | None
    """Content of the image; None for scenes, and if it has not been read yet."""
    held: ExitStack


Ended: TypeAlias = "Future[tuple[Record, bool]]"
"""Result of a mask: its record, and whether it was made rather than kept."""


class MaskMaker:
    """Makes the masks of images that no other process makes.

    Args:
        segmenter: The segmenter.
        options: Options for rasters; ``batch_size`` and ``probabilities`` apply to all images.
        kept: Decides which existing masks are kept.
        ranks: This process among those of the command.
        require: Checks an image before it is opened.
    """

    def __init__(
        self,
        segmenter: CaseSegmenter,
        options: MapOptions,
        kept: KeptMasks,
        ranks: Ranks,
        require: Callable[[Sequence[Location]], None],
    ) -> None:
        self.segmenter = segmenter
        self.options = options
        self.kept = kept
        self.ranks = ranks
        self.require = require
        self.outcome = Outcome()
        self.said: set[Hashable] = set()
        self.last: tuple[Task, Ended] | None = None
        self.last_size = 0
        """Size in bytes of the image that was read last."""
        self.computed = 0
        """Images that went through the network."""
        self.following = 0
        """Images after the present one."""

    def run(self, tasks: Sequence[Task]) -> Outcome:
        """Make the masks, and wait for those that other processes make.

        Raises:
            FullDisk: The disk is full; says how many masks are written.
        """
        busy: list[Task] = []
        with (
            ThreadPoolExecutor(1, "reader") as self.reader,
            ThreadPoolExecutor(1, "writer") as self.writer,
            progress(len(tasks), "Predicting", "image") as self.bar,
        ):
            try:
                for i, (task, begin) in enumerate(self._ahead(tasks), 1):
                    self.following = len(tasks) - i
                    if not self._make(task, begin):
                        busy.append(task)  # masks that another process is making come last
                    if self.ranks.size > 1:
                        busy = [other for other in busy if not self._made_by_others(other)]
                for task in busy:
                    self._make(task, partial(self._begin_last, task))
                self._settle()
            except FullDisk as error:  # the other masks would fail alike, after all the work on them
                written = self.outcome.written + self._last_is_written()
                raise FullDisk(f"{error} Written so far: {written} of {len(tasks)} masks.") from error
        return self.outcome

    def _ahead(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Callable[[], Begun | Record]]]:
        """Yield each image with a function that returns what :meth:`_begin` returned for it, called in advance.

        That function also begins the following image, which is then read while the network runs. The last images are
        not begun in advance, as other processes may have nothing left to do.
        """
        ahead: Future[Begun | Record] | None = None
        try:
            for i, task in enumerate(tasks):
                now, ahead = ahead or self.reader.submit(self._begin, task), None
                following = tasks[i + 1] if len(tasks) - i > self.ranks.size else None
                if following is not None and is_scene(following.files):  # scenes are read while they are computed
                    following = None

                def begin(now: Future[Begun | Record] = now, following: Task | None = following) -> Begun | Record:
                    nonlocal ahead
                    try:
                        return now.result()
                    finally:
                        if following is not None:
                            ahead = self.reader.submit(self._begin, following, early=True)

                yield task, begin
        finally:
            if ahead is not None and not ahead.cancel() and ahead.exception() is None:
                begun = ahead.result()
                if isinstance(begun, Begun):
                    begun.held.close()

    def _begin(self, task: Task, wait: float = 0, tell: bool = False, early: bool = False) -> Begun | Record:
        """Lock a mask and read its image, or return the record of an existing mask that is kept.

        Args:
            task: The image.
            wait: Seconds to wait for another process that makes the mask.
            tell: Print a note before waiting.
            early: Whether the image is read in advance, while the network runs on another one.

        Raises:
            Held: Another process makes the mask.
        """
        self.require(task.files)
        record, job = Record(task.paths), self._job(task)
        if self.kept.keeps(record, job, locked=False):
            return record
        with ExitStack() as stack:
            stack.enter_context(record.locked(wait, tell))
            if self.kept.keeps(record, job, locked=True):
                return record
            picture = None
            if not is_scene(task.files) and (not early or free_memory() > ROOM * self.last_size):
                try:
                    picture = self.segmenter.read(cast(tuple[Path, ...], task.files))
                    self.last_size = picture.array.nbytes
                except Exception:
                    if not early:  # otherwise it is read again at its turn, when there may be more memory
                        raise
            return Begun(record, job, picture, stack.pop_all())

    def _begin_last(self, task: Task) -> Begun | Record:
        """Wait for a mask that another process makes; take part in it if it is a scene."""
        tell, wait, joining = self.ranks.size == 1, 0.0, is_scene(task.files)
        while True:
            try:
                return self._begin(task, wait if joining else math.inf, tell and (wait > 0 or not joining))
            except Held:
                tell = tell and not wait  # the note is printed once
            wait = PATIENCE
            try:
                self._compute(task, self._job(task), joining=True)
            except Gone:
                continue
            except Exception:  # raised again if this process has to make the map itself
                joining = False
            else:  # the other process only has to write the files
                joining = tell = False

    def _job(self, task: Task) -> Job:
        segmenter = self.segmenter
        if is_scene(task.files):
            return scene_job(segmenter.identity, segmenter.spec, task.files, self.options)
        return job_of(segmenter.identity, segmenter.spec, task.files)

    def _make(self, task: Task, begin: Callable[[], Begun | Record]) -> bool:
        """Make a mask and leave its writing to the writer thread; return False if another process is making it."""
        ended: Ended = Future()
        try:
            begun = begin()
            if isinstance(begun, Record):
                ended.set_result((begun, False))
            else:
                ended = self._made(task, begun)
        except Held:
            return False
        except Exception as error:
            ended.set_exception(error)
        before, self.last = self.last, (task, ended)
        self._finish(before)
        return True

    def _made_by_others(self, task: Task) -> bool:
        """Return whether another process has finished a mask meanwhile, and if so count it."""
        record = Record(task.paths)
        if not (record.finished and record.made_since(self.kept.started)):
            return False
        return self._make(task, partial(self._begin, task))

    def _made(self, task: Task, begun: Begun) -> Ended:
        with begun.held as stack:
            stack.enter_context(begun.record.making(begun.job))
            if is_scene(task.files):
                write = self._compute(task, begun.job, record=begun.record)
            else:
                write = self._segment(task, begun)
            self.computed += 1
            self._expect()
            held = stack.pop_all()

        def finish() -> tuple[Record, bool]:
            with held:
                write()
            return begun.record, True

        if is_scene(task.files) and self.options.polygons:  # polygons print notes and a progress bar of their own
            self._settle()
            ended: Ended = Future()
            ended.set_result(finish())
            return ended
        return self.writer.submit(finish)

    def _segment(self, task: Task, begun: Begun) -> Callable[[], None]:
        files = cast(tuple[Path, ...], task.files)
        picture, begun.picture = begun.picture or self.segmenter.read(files), None
        beside = task.paths[1] if self.options.probabilities else None
        labels = self.segmenter.segment(picture, files, self.options.batch_size, beside, begun.job.sources)
        begun.record.notes = [(text, text) for text in picture.notes]
        return partial(self.segmenter.write, labels, gaps_of(picture), without_pixels(picture), files, task.mask)

    def _compute(self, task: Task, job: Job, joining: bool = False, record: Record | None = None) -> Callable[[], None]:
        where = self.segmenter.engine, self.segmenter.spec, task.files, task.mask
        computed = compute_scene(*where, self.options, job, self.said, self.ranks, joining, self._expect)
        if record is not None:
            record.notes = computed.notes
        return computed.write

    def _expect(self, done: float = 0, left: float = 0) -> None:
        """Tell the engine how much work is left, also of a scene that is being computed, if all images are alike."""
        self.segmenter.engine.expect((self.following / self.ranks.size + left) / (self.computed + done))

    def _settle(self) -> None:
        """Wait until the last mask is written."""
        before, self.last = self.last, None
        self._finish(before)

    def _finish(self, settled: tuple[Task, Ended] | None) -> None:
        """Wait until a mask is written, and keep its result for the summary."""
        if settled is None:
            return
        task, ended = settled
        try:
            record, made = ended.result()
            self.outcome.written += made
            self.kept.outdated += record.outdated
            self._remember_notes(task, record, made)
        except FullDisk:
            raise
        except Exception as error:  # continue with the other images
            self.outcome.add_failure(task, error)
        self.bar.update()

    def _remember_notes(self, task: Task, record: Record, made: bool) -> None:
        """Keep or print the notes on an image, also on one that another process of the command has read."""
        if made:
            notes = record.notes
        elif self.ranks.size > 1 and record.made_since(self.kept.started):
            notes = record.stored_notes()
        else:
            return
        if not is_scene(task.files):
            self.outcome.notes[str(task.files[0])] = [text for _, text in notes]
            return
        for key, text in notes:
            if key not in self.said:
                note(f"note: {task.files[0].name}: {text}.")
            self.said.add(key)

    def _last_is_written(self) -> bool:
        try:
            return self.last is not None and self.last[1].result()[1]
        except Exception:
            return False

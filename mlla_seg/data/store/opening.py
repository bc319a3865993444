"""Memory-mapped store of decoded cases, built once per data set, so that training never decodes gzip or npz.

A case is stored as ``<case>.image.npy`` ``(S, C, H, W)``, ``<case>.mask.npy`` ``(S, H, W)`` with class indices,
``<case>.values.npy`` and ``<case>.places.npy`` with samples of its values and class positions, and ``<case>.json`` with
everything else (see ``entry.py``). The JSON is written last, so an interrupted build resumes.

A case is opened if the files that it was built from and its arrays have the sizes and times that its entry names.
Otherwise contents are compared with the digests in the entry: those of a copy are equal, and only its times are noted.
Where they differ, the case is built again. A card that reads the same images in another way has a store of its own, so
that no run replaces the arrays of another one in progress.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.store.building import build_case, how_read, reading_of
from mlla_seg.data.store.case import KINDS, StoredCase
from mlla_seg.data.store.entry import Entry, Stored, checksum_of, read_entry, stamps_of, write_entry
from mlla_seg.data.store.sources import SourceCheck, difference
from mlla_seg.disk_space import FullDisk
from mlla_seg.errors import InputError
from mlla_seg.locks import Held, hold, release
from mlla_seg.progress import note, progress

THREADS = 4
SHOWN = 5
"""Most reasons shown in a message."""
TICK = 0.02
"""Seconds in which the clock of a file system moves on, so that a later change of an array has another time."""


class UnusableCases(InputError):
    """Some cases cannot be used; the message shows the first reasons.

    Attributes:
        problems: The reason for each of these cases, by its name.
        opened: All other cases by name.
    """

    def __init__(self, problems: Mapping[str, str], opened: Mapping[str, StoredCase], total: int) -> None:
        self.problems = dict(problems)
        self.opened = dict(opened)
        reasons = [*dict.fromkeys(problems.values())]  # one file may label several cases
        more = f"\n... and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        count = f"{len(problems)} of {total} cases cannot be used:\n" if len(problems) > 1 else ""
        super().__init__(count + "\n".join(reasons[:SHOWN]) + more)


def store_folder(cache_dir: Path, card: Card, root: Path, *labels: str) -> Path:
    """Return the folder of the arrays of the images below ``root`` as the card reads them, with labels of some kind."""
    images = hashlib.sha256(str(root.absolute()).encode()).hexdigest()
    return cache_dir / "-".join((card.name, images[:8], *labels, how_read(card)[:8]))


def open_store(card: Card, cases: Sequence[Case], root: Path, folder: Path, verify: bool = False) -> list[StoredCase]:
    """Return the stored cases, in the order of ``cases``; build those that are not stored as they are now.

    Several processes may do so at once: one builds, and the others wait for it.

    Args:
        card: Card of the data set.
        cases: Its cases.
        root: Root of the data.
        folder: Folder of the store.
        verify: Compare all contents with their digests, even if sizes and times are equal.

    Raises:
        UnusableCases: Some cases cannot be used; has the reasons, and all other cases.
    """
    store = _Store(card, root, folder, how_read(card), SourceCheck(root))
    opened = {} if verify else {case.name: found for case in cases if (found := store.unchanged(case))}
    if left := [case for case in cases if case.name not in opened]:
        if not folder.exists():
            _note_others(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(store, left):
            store = replace(store, sources=SourceCheck(root))  # folders may have changed while it waited
            renewed, problems = store.renewed(left, verify)
            opened |= renewed
        if problems:
            raise UnusableCases(problems, opened, len(cases))
    return [opened[case.name] for case in cases]


def _note_others(folder: Path) -> None:
    """Note which other stores of the same images take space beside a new one."""
    same, _, _ = folder.name.rpartition("-")
    if others := sorted(folder.parent.glob(f"{escape(same)}-*")) if same else []:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        note(
            f"note: {folder} is built beside {others[0].name}{more}, which holds the same images as another card or "
            "other options read them: delete what you no longer use."
        )


@dataclass(frozen=True)
class Group:
    """Cases that are read by the same card, and the folder of their store."""

    card: Card
    cases: Sequence[Case]
    folder: Path


def open_groups(groups: Sequence[Group], root: Path, verify: bool = False) -> dict[str, StoredCase]:
    """Return the stored cases of several stores by name; all are built before an error is raised.

    Args:
        groups: The cases, by store.
        root: Root of the data.
        verify: As in :func:`open_store`.

    Raises:
        UnusableCases: Some cases cannot be used; has the reasons, and all other cases.
    """
    opened: dict[str, StoredCase] = {}
    problems: dict[str, str] = {}
    for group in groups:
        try:
            opened |= {case.name: case for case in open_store(group.card, group.cases, root, group.folder, verify)}
        except UnusableCases as error:
            opened |= error.opened
            problems |= error.problems
    if problems:
        raise UnusableCases(problems, opened, sum(len(group.cases) for group in groups))
    return opened


@dataclass(frozen=True)
class _Store:
    card: Card
    root: Path
    folder: Path
    reading: str
    sources: SourceCheck

    def unchanged(self, case: Case) -> StoredCase | None:
        """Return a case if sizes and times say that nothing has changed."""
        entry = read_entry(self.folder, case.name)
        if (
            entry is None
            or entry.reading != reading_of(self.reading, case)
            or not self.sources.unchanged(case, entry.sources)
        ):
            return None
        try:
            stamps = stamps_of(self.folder, case.name)
        except OSError:
            return None
        if any(entry.arrays[kind].stamp != stamps[kind] for kind in KINDS):
            return None
        return entry.case(self.folder, case.name, stamps, case.part)

    def renewed(self, cases: Sequence[Case], verify: bool) -> tuple[dict[str, StoredCase], dict[str, str]]:
        """Return cases by name, after building those whose files no longer have the stored contents.

        Also returns the reasons by name for those that cannot be used.
        """
        reasons: dict[str, list[str]] = defaultdict(list)
        opened: dict[str, StoredCase] = {}
        problems: dict[str, str] = {}
        with (
            ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool,
            progress(len(cases), f"Preparing {self.card.name}", "case", leave=False) as bar,
        ):
            jobs = [pool.submit(self._renew, case, verify, reasons) for case in cases]
            try:
                for case, job in zip(cases, jobs, strict=True):
                    try:
                        opened[case.name] = job.result()
                    except FullDisk:
                        raise
                    except InputError as error:
                        problems[case.name] = str(error)
                    bar.update()
            except BaseException:  # such as Ctrl-C: the cases in progress are finished, no others are begun
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        for reason, names in reasons.items():
            count = f"{len(names)} cases" if len(names) > 1 else "1 case"
            count += f" of {self.card.name} {'are' if len(names) > 1 else 'is'}"
            note(f"note: {count} built again, as {reason}, such as {min(names)}")
        time.sleep(TICK)
        return opened, problems

    def _renew(self, case: Case, verify: bool, reasons: dict[str, list[str]]) -> StoredCase:
        if not verify and (found := self.unchanged(case)):  # another process has built it
            return found
        entry, now = read_entry(self.folder, case.name), self.sources.take(case)
        damage = ""
        if entry is None:
            if (self.folder / f"{case.name}.json").exists():
                reasons["the store's entry was damaged or of another version"].append(case.name)
        elif entry.reading != reading_of(self.reading, case):
            reasons["the card reads cases in another way"].append(case.name)
        elif changed := difference(entry.sources, now):
            reasons["files have changed"].append(changed)
        elif damage := self._damaged(case, entry):
            reasons["arrays in the store were damaged"].append(damage)
        else:
            stamps = stamps_of(self.folder, case.name)
            arrays = {kind: Stored(stamps[kind], entry.arrays[kind].checksum) for kind in KINDS}
            renewed = replace(entry, sources=now, arrays=arrays)
            if renewed != entry:
                with suppress(PermissionError):  # a store of another user is compared each time
                    write_entry(self.folder, case.name, renewed)
            return renewed.case(self.folder, case.name, stamps, case.part)
        built = build_case(self.card, case, self.folder, reading_of(self.reading, case), now)
        stamps = {kind: stored.stamp for kind, stored in built.arrays.items()}
        return built.case(self.folder, case.name, stamps, case.part)

    def _damaged(self, case: Case, entry: Entry) -> str:
        """Return the name of an array whose content is not that of the entry; empty if there is none."""
        for kind in KINDS:
            path = self.folder / f"{case.name}.{kind}.npy"
            try:
                same = checksum_of(path) == entry.arrays[kind].checksum
            except OSError:
                same = False
            if not same:
                return path.name
        return ""


@contextmanager
def _alone(store: _Store, cases: Sequence[Case]) -> Iterator[None]:
    """Hold the lock of a store; while another process builds cases, show how many are done."""
    refusal: Callable[[str], str] = lambda holder: f"{store.folder}: {holder} prepares {store.card.name}"  # noqa: E731
    try:
        lock = hold(store.folder, refusal)
    except Held as error:
        note(f"note: waiting, as {error}")
        with progress(len(cases), f"Waiting for {store.card.name}", "case", leave=False) as bar:
            lock, left = None, list(cases)
            while lock is None:
                with suppress(Held):
                    lock = hold(store.folder, refusal, wait=1)
                ready, left = len(left), [case for case in left if not store.unchanged(case)]
                bar.update(ready - len(left))
    except (OSError, NotImplementedError):  # a store that others own, or a file system without locks
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            release(lock)

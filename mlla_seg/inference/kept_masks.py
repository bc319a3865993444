"""Which masks of a folder are made, and which existing ones are kept and why."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlla_seg.inference.jobs import Job
from mlla_seg.inference.partial_maps import partial_folder
from mlla_seg.inference.records import Found, Record
from mlla_seg.locks import lock_file
from mlla_seg.progress import STARTED, note


class KeptMasks:
    """Existing masks that a run has kept.

    Args:
        overwrite: Make existing masks anew, except those that another process has finished since the run started.
        several: Whether several processes share the command. Masks of the same job are then kept, as it would make the
            same bytes, whichever process has made them, in this run or in one that was interrupted.
    """

    def __init__(self, overwrite: bool, several: bool = False) -> None:
        self.overwrite = overwrite
        self.several = several
        self.started = STARTED if several else time.time()
        self.same: list[Path] = []
        """Masks that the same job had made before."""
        self.shared: list[Path] = []
        """Masks that another process made by the same job while this run went on."""
        self.unknown: list[Path] = []
        """Masks without a record, or changed since."""
        self.others: list[tuple[Path, list[str]]] = []
        """Masks of other jobs, and how these differ."""
        self.rivals: list[tuple[Path, list[str]]] = []
        """The same for masks that another process made while this run went on."""
        self.outdated: list[Path] = []
        """Files beside overwritten masks that still are those of the earlier masks."""

    def keeps(self, record: Record, job: Job, locked: bool) -> bool:
        """Return whether an existing mask is kept, and remember why.

        Args:
            record: Record of the mask.
            job: Job of this run.
            locked: Whether the record is locked. Without a lock, which is slow to take, only finished masks of the same
                job are kept: another process may be making the others, or a killed one may have left its lock, which is
                removed when it is taken.
        """
        meanwhile = record.made_since(self.started)
        if self.overwrite and not meanwhile and not self.several:
            return False
        mask, found = record.paths[0], record.compare(job)
        if self.overwrite and not meanwhile and found is not Found.SAME:
            return False
        if not locked and (found is not Found.SAME or lock_file(record.path).exists()):
            return False
        if found is Found.SAME:
            (self.shared if meanwhile else self.same).append(mask)
            shutil.rmtree(partial_folder(mask), ignore_errors=True)  # of a run that was killed while it removed it
        elif found is Found.UNKNOWN and not self.overwrite:
            self.unknown.append(mask)
        elif found is Found.OTHER:
            (self.rivals if meanwhile else self.others).append((mask, record.reasons))
        else:
            return False
        return True

    def say(self) -> None:
        """Note how many masks are kept that need no attention."""
        if self.same:
            note(f"note: {_counted(self.same)} made before by the same command and kept.")
        if self.shared and not self.several:
            note(f"note: {_counted(self.shared)} made by another process meanwhile.")
        if self.outdated:
            note(f"note: {_counted(self.outdated, 'files')} left beside new masks, but belong to those before.")
        if self.unknown:
            note(
                f"note: {_counted(self.unknown)} kept without knowing the network: there is no record, or the mask was "
                "changed since."
            )

    def problems(self) -> Iterator[str]:
        """Yield lines on masks that are kept but not those of this command."""
        if self.others:
            masks, reasons = [mask for mask, _ in self.others], self.others[0][1]
            yield (
                f"{_counted(masks)} made otherwise, with {', '.join(reasons)}, and kept. Use --overwrite true to make "
                "all anew, or another folder for --output."
            )
        if self.rivals:
            masks, reasons = [mask for mask, _ in self.rivals], self.rivals[0][1]
            yield (
                f"{_counted(masks)} made by another process meanwhile, with {', '.join(reasons)}, and kept. Use "
                "another folder for --output."
            )


def _counted(paths: Sequence[Path], what: str = "masks") -> str:
    """Return the number of masks, or other files, and the name of one, followed by a verb."""
    return f"{paths[0]} was" if len(paths) == 1 else f"{len(paths)} {what}, such as {paths[0]}, were"

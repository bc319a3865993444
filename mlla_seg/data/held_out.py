"""Recognition of images that are held out for scores, so that no training sees them, not even without labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from mlla_seg.data.cases import Case
from mlla_seg.data.patients import patient_in
from mlla_seg.data.store.entry import checksum_of


class Held:
    """Held-out cases, which are recognised by patient or name, by their files and by copies of these.

    Args:
        cases: The cases.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self.names = {name for case in cases for name in (case.name, case.patient, patient_in(case.name))}
        self.files = {path.resolve() for case in cases for files in case.images for path in files}
        self.sizes = {path.stat().st_size for path in self.files if path.is_file()}

    def holds(self, case: Case) -> bool:
        """Return whether an unlabelled case is held out, or of a patient who is."""
        return case.name in self.names or case.patient in self.names or self.has_files(case)

    def has_files(self, case: Case) -> bool:
        """Return whether a file of a case is one of the held-out files, or a copy of one."""
        files = [path.resolve() for files in case.images for path in files]
        return any(path in self.files or self._is_copy(path) for path in files)

    def _is_copy(self, path: Path) -> bool:
        alike = path.is_file() and path.stat().st_size in self.sizes
        return alike and checksum_of(path) in self._checksums

    @cached_property
    def _checksums(self) -> set[int]:
        return {checksum_of(path) for path in self.files if path.is_file()}

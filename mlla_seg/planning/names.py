"""Names of files and DICOM series below a folder, and which of their parts may tell cases apart."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from mlla_seg.data.tree import stem_of

DEEPEST = 3
"""Most folders between that of a case and its file or series, such as one for the study and one for the series."""
ANY = "/*"
"""A folder or file of any name in ``Name.below``."""


@dataclass(frozen=True)
class Name:
    """A file, or a folder with a DICOM series, below the root."""

    whole: str
    series: bool = False
    joined: int = 1
    """Number of leading folders that are taken for one, such as ``derivatives/labels``."""
    below: str = ""
    """Its end if a folder above is named after the case: ``/MR`` for the series ``PAT01/MR``; ``/*`` for any name."""

    @cached_property
    def _parts(self) -> list[str]:
        parts = self.whole.split("/")
        return parts[: len(parts) - self.below.count("/")]

    @cached_property
    def folders(self) -> tuple[str, ...]:
        folders = self._parts[:-1]
        return ("/".join(folders[: self.joined]), *folders[self.joined :]) if folders else ()

    @cached_property
    def stem(self) -> str:
        last = self._parts[-1]
        return last if self.series or self.below else stem_of(last)

    @cached_property
    def suffix(self) -> str:
        last = self.whole.rpartition("/")[2]
        return "" if self.series else last[len(stem_of(last)) :].lower()


def told_by_folders(images: Collection[Name], masks: Collection[Name]) -> Iterator[tuple[list[Name], list[Name]]]:
    """Yield images and masks with the name of a folder above them, the nearest first.

    What stands below that folder is part of the naming, or may be anything, as series named by their UID.
    """
    depths = range(DEEPEST + 1)
    levels = sorted(product(depths, depths), key=lambda pair: (sum(pair), pair[1]))[1:]
    for (image_fixed, mask_fixed), (image_level, mask_level) in product(product((True, False), repeat=2), levels):
        if (image_fixed or image_level) and (mask_fixed or mask_level):  # otherwise the same as with fixed names
            found = _told_above(images, image_level, image_fixed), _told_above(masks, mask_level, mask_fixed)
            if all(found):
                yield found


def _told_above(names: Collection[Name], levels: int, fixed: bool) -> list[Name]:
    """Return the names that lie so deep, told by the folder so many levels above them."""
    found = []
    for name in names:
        parts = name.whole.split("/")
        if levels and len(parts) > levels:
            last = parts[-1] if name.series else stem_of(parts[-1])
            own = "".join(f"/{part}" for part in (*parts[-levels:-1], last))
            found.append(replace(name, below=own if fixed else ANY * levels))
    return found if levels else [*names]

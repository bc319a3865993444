"""Names of files and DICOM series below a folder, and which of their parts may tell cases apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product, takewhile
from typing import Literal, TypeAlias

from mlla_seg.data.tree import stem_of

DEEPEST = 3
"""Most folders between that of a case and its file or series, such as one for the study and one for the series."""
ANY = "/*"
"""A folder or file of any name in ``Name.below``, or with any start, as in ``/*_B02``."""
Told: TypeAlias = Literal["fixed", "end", "any"]
"""What of the names below a folder is the same for all cases: all, the end of the last, or nothing."""


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

    What stands below that folder is part of the naming, or may be anything, as series named by their UID. Of several
    images in a folder only the ends may be, as in ``S1/T32TQM_20220512_B02.tif``.
    """
    depths = range(DEEPEST + 1)
    levels = sorted(product(depths, depths), key=lambda pair: (sum(pair), pair[1]))[1:]
    kinds: list[tuple[Told, Told]] = [("fixed", "fixed"), ("fixed", "any"), ("any", "fixed"), ("any", "any")]
    kinds += [("end", "fixed"), ("end", "any")]
    for (image_told, mask_told), (image_level, mask_level) in product(kinds, levels):
        if (image_told == "fixed" or image_level) and (mask_told == "fixed" or mask_level):  # otherwise as if fixed
            found = _told_above(images, image_level, image_told), _told_above(masks, mask_level, mask_told)
            if all(found):
                yield found


def _told_above(names: Collection[Name], levels: int, told: Told) -> list[Name]:
    """Return the names that lie so deep, told by the folder so many levels above them."""
    found = []
    ends = _ends(names) if told == "end" else {}
    for name in names:
        parts = name.whole.split("/")
        if levels and len(parts) > levels:
            last = parts[-1] if name.series else stem_of(parts[-1])
            between = "".join(f"/{part}" for part in parts[-levels:-1])
            if told != "end":
                found.append(replace(name, below=f"{between}/{last}" if told == "fixed" else ANY * levels))
            elif name in ends:
                found.append(replace(name, below=f"{between}{ANY}{ends[name]}"))
    return found if levels else [*names]


def _ends(names: Collection[Name]) -> dict[Name, str]:
    """Return what follows the common start of the files in a folder, such as ``_B02``; series have no such ends."""
    folders: dict[str, list[Name]] = defaultdict(list)
    for name in names:
        if not name.series:
            folders[name.whole.rpartition("/")[0]].append(name)
    found: dict[Name, str] = {}
    for there in folders.values():
        stems = [stem_of(name.whole.rpartition("/")[2]) for name in there]
        columns = takewhile(lambda letters: len({*letters}) == 1, zip(*stems, strict=False))
        alike = "".join(letters[0] for letters in columns)
        start = max(alike.rfind(letter) for letter in "_-. ") if len(there) > 1 else 0
        if start > 0:
            found |= {name: stem[start:] for name, stem in zip(there, stems, strict=True)}
    return found

"""Folders with one binary mask per organ, as TotalSegmentator writes them, joined to masks of a card's classes.

A file belongs to the class whose name, or whose code's meaning, has the same words in any order: ``kidney_left.nii.gz``
to ``left kidney``, ``urinary_bladder.nii.gz`` to a bladder with the code "Urinary bladder".
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.card import Card
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.registry import suffix_of
from mlla_seg.errors import InputError
from mlla_seg.progress import note

SUFFIXES = (".nii.gz", ".nii")
INNER = "segmentations"
"""Folder of the masks within that of a case, in TotalSegmentator's own data set."""


def organ_files(folder: Path) -> list[Path]:
    """Return the masks of organs in the folder of a case; none if it is no such folder."""
    place = folder / INNER if (folder / INNER).is_dir() else folder
    if not place.is_dir():
        return []
    return sorted(path for path in place.iterdir() if path.is_file() and suffix_of(path) in SUFFIXES)


class OrganMasks:
    """Joins the organs of each case, and collects what must be said about all cases together.

    Args:
        card: Card of the truth.
        folder: Folder with a folder for each case, for messages.

    Raises:
        InputError: The card's masks hold no ids, or no background.
    """

    def __init__(self, card: Card, folder: Path) -> None:
        if card.layout.coloured_masks or card.layout.mask_threshold is not None or card.background_index is None:
            raise InputError(
                f"{folder}: masks of single organs need a card whose masks hold ids and which has a background class; "
                f"{card.name} is not one."
            )
        self.folder = folder
        self.card = card
        self.values = {k: value for value, k in reversed(card.ids.items())}
        self.classes: dict[frozenset[str], int] = {}
        for k, entry in enumerate(card.classes):
            if k != card.background_index:
                for name in (entry.name, *([entry.code.meaning] if entry.code else [])):
                    self.classes.setdefault(words(name), k)
        self.missing: list[tuple[int, str]] = []  # class and case
        self.never = set(self.classes.values())  # classes that no case so far has
        self.extra: Counter[str] = Counter()
        self.overlaps: list[tuple[int, str]] = []

    @contextmanager
    def joined(self, case: Path) -> Iterator[Path]:
        """Write one mask of the card's ids for the folder of a case, and remove it again.

        Raises:
            InputError: No file is that of a class, two are of the same, one is not binary, or their grids differ.
        """
        import nibabel as nib

        files = self._by_class(case)
        labels: Array | None = None
        first: Any = None
        both = 0
        for k in sorted(files):
            image: Any = nib.load(files[k])
            inside = _binary(np.asanyarray(image.dataobj), files[k])
            if labels is None:
                first, labels = image, np.full(inside.shape, self.values[self._background], np.uint16)
            elif inside.shape != labels.shape or not np.allclose(image.affine, first.affine, atol=1e-3):
                raise InputError(
                    f"{files[k]}: its grid, of shape {inside.shape}, differs from that of {files[min(files)].name}, of "
                    f"shape {labels.shape}."
                )
            both += int((labels[inside] != self.values[self._background]).sum())
            labels[inside] = self.values[k]
        if both:
            self.overlaps.append((both, case.name))
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / f"{case.name}.nii"
            nib.Nifti1Image(labels, first.affine).to_filename(path)
            yield path

    def note_all(self, cases: int) -> None:
        """Say what was left out, counted as not found, or decided."""
        names = self.card.class_names
        if self.never:
            some = names[min(self.never)]
            note(
                f"note: {self.folder} has no file of {len(self.never)} of {len(set(self.classes.values()))} "
                f"classes, such as {some}, in any case: they count as not found. Name its files as the classes of the "
                "card."
            )
        if rest := [f"{names[k]} of {case}" for k, case in self.missing if k not in self.never]:
            note(
                f"note: {self.folder} lacks {len(rest)} files of classes that other cases have, such as {rest[0]}: "
                "they count as not found there."
            )
        if self.extra:
            name = next(iter(self.extra))
            note(f"note: {len(self.extra)} organs in {self.folder} are no class of the card, such as {name}; ignored.")
        if self.overlaps:
            voxels = sum(count for count, _ in self.overlaps)
            note(
                f"note: {voxels} voxels in {len(self.overlaps)} of {cases} cases of {self.folder}, such as "
                f"{self.overlaps[0][1]}, are in two organs: they count for the one that is later in the card."
            )

    @property
    def _background(self) -> int:
        assert self.card.background_index is not None
        return self.card.background_index

    def _by_class(self, case: Path) -> dict[int, Path]:
        found: dict[int, Path] = {}
        for path in organ_files(case):
            name = path.name[: -len(suffix_of(path))]
            k = self.classes.get(words(name))
            if k is None:
                self.extra[name] += 1
            elif k in found:
                raise InputError(f"{path}: and {found[k].name} are both {self.card.class_names[k]}. Remove one.")
            else:
                found[k] = path
        if not found:
            raise InputError(
                f"{case}: none of its files, such as {organ_files(case)[0].name}, has the name of a class, such as "
                f"{self.card.class_names[min(self.classes.values())]}."
            )
        self.never -= set(found)
        self.missing += [(k, case.name) for k in sorted(set(self.classes.values()) - set(found))]
        return found


def words(name: str) -> frozenset[str]:
    """Return the words of a name, in lower case and in no order."""
    return frozenset(re.findall(r"[^\W_]+", name.lower()))


def _binary(array: Array, path: Path) -> Array:
    values = np.unique(array)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0) or not np.isfinite(values).all():
        shown = ", ".join(f"{value:g}" for value in values[:4].tolist())
        raise InputError(
            f"{path}: has the values {shown}{', ...' if len(values) > 4 else ''}, expected 0 and one other."
        )
    return array != 0

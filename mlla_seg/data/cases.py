"""Cases, which group the files that belong together, and messages about missing files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlla_seg.data.blocks import Part
from mlla_seg.data.card import Card
from mlla_seg.progress import note_files

LONGEST = 230
"""Most bytes of the name of a case: file systems allow 255, including what the store appends."""


@dataclass(frozen=True)
class Case:
    """One volume or image: the unit of splitting, evaluation and prediction."""

    name: str
    patient: str
    images: tuple[tuple[Path, ...], ...]
    """Image files: one entry per slice in order (or one for a whole volume), each with one file per channel."""
    masks: tuple[Path, ...] = ()
    """Mask files, one per entry of ``images``; empty if image and mask are in the same file."""
    test_masks: tuple[Path, ...] = ()
    """Separate masks for testing, such as those without boundaries; empty to use ``masks``."""
    scribbles: tuple[Path, ...] = ()
    """Files of scribbles, one per entry of ``images``; empty if there are none, or if the files of masks hold them."""
    split: str | None = None
    """Split given by the location of the files or by a table, if any."""
    fold: int | None = None
    """Fold given by a table, if any."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What a table says about it, by column: scanner, sex, age, ..."""
    excluded: str | None = None
    """The reason if it is left out of all splits."""
    root: Path | None = None
    """Folder of the data set, which the images that a VRT names must not leave."""
    part: Part | None = None
    """Blocks of the scene that form the case, if these are divided among the splits."""
    areas: tuple[Path, ...] = ()
    """Polygons of the labelled area, one file per entry of ``images``; empty if everything is labelled."""
    labelled: bool = True
    """Whether there are labels; without, pixels with data are stored as of the first class, others as ignored."""

    @property
    def files(self) -> list[Path]:
        return [path for entry in self.images for path in entry] + [*self.masks, *self.areas]

    def tested(self) -> Case:
        """Return the case with its masks for testing."""
        return replace(self, masks=self.test_masks or self.masks)


def missing_data(card: Card, root: Path, problem: str, found: str = "") -> str:
    """Return a message that tells where to get a data set and how to arrange it.

    Args:
        card: Card of the data set.
        root: Folder of the data.
        problem: What is wrong with the folder.
        found: Lines on what it holds instead.
    """
    tree = "\n".join(f"    {line}" for line in card.layout.tree.rstrip().splitlines())
    return (
        f"{card.title}: the folder {root.absolute()} {problem}.\n"
        + (f"{found}\n" if found else "")
        + f"  Get it from: {card.source}\n  Licence: {card.licence}\n"
        f"  Expected there (or in another folder given as --data.root):\n{tree}"
    )


def note_unlabelled(names: Sequence[str], where: str) -> None:
    """Note images that are skipped because they have no mask."""
    note_files(names, where, "have no mask and are skipped")

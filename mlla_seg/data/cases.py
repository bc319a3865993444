"""A case: the files that belong together, and what is said where there are none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlla_seg.data.card import Card


@dataclass(frozen=True)
class Case:
    """One volume or image: the unit that is split, evaluated and predicted."""

    name: str
    patient: str
    images: tuple[tuple[Path, ...], ...]
    """Files of the image: one entry per slice in order (or one for a whole volume), each with one file per channel."""
    masks: tuple[Path, ...] = ()
    """Files of the mask, one per entry of ``images``; empty where image and mask lie in the same file."""
    test_masks: tuple[Path, ...] = ()
    """Masks by which the case is scored where it is tested, such as those without boundaries; empty for the same."""
    split: str | None = None
    """The split that the file's own place says, where it says one."""

    @property
    def files(self) -> list[Path]:
        return [path for entry in self.images for path in entry] + list(self.masks)

    def tested(self) -> Case:
        """The case as it is tested."""
        return replace(self, masks=self.test_masks or self.masks)


def missing_data(card: Card, root: Path, problem: str) -> str:
    """A message that says where to get a data set and how it lies."""
    tree = "\n".join(f"    {line}" for line in card.layout.tree.rstrip().splitlines())
    return (
        f"{card.title}: the folder {root.absolute()} {problem}.\n"
        f"  Get it from: {card.source}\n  Licence: {card.licence}\n"
        f"  Expected there (or in another folder given as --data.root):\n{tree}"
    )


def note_unlabelled(names: Sequence[str], where: str) -> None:
    """Says which images are left out because they have no mask."""
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        print(f"note: {len(names)} files of {where} have no label and are left out: {shown}", file=sys.stderr)

"""Folders of images without labels, found as ``predict`` finds them, beside the cases of a card."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from mlla_seg.data.card import Card
from mlla_seg.data.cases import LONGEST, Case
from mlla_seg.data.held_out import Held
from mlla_seg.data.image_files import CHANNEL_SUFFIX, find_images
from mlla_seg.data.patients import patient_in
from mlla_seg.data.tree import stem_of
from mlla_seg.errors import InputError
from mlla_seg.progress import note, note_once

MASK = re.compile(r"(?<![a-z])(?:masks?|labels?|seg|segmentations?|gt)(?![a-z])", re.IGNORECASE)
"""Words in names of masks."""


def images_in(folder: Path, channels: int) -> list[tuple[Path, ...]]:
    """Return the images of a folder as ``predict`` finds them, without those that are masks by their names.

    Args:
        folder: The folder.
        channels: Channels in the files of an image.

    Raises:
        InputError: There is none.
    """
    found = find_images(folder, channels)
    masks = [files[0].name for files in found if MASK.search(files[0].name)]
    if not masks or len(masks) == len(found):
        return found
    note_once(f"note: {len(masks)} of {len(found)} files in {folder} are masks by their names and left out: {masks[0]}")
    return [files for files in found if files[0].name not in masks]


def unlabelled_cases(folder: Path, card: Card) -> list[Case]:
    """Return the images of a folder as cases of the training split.

    Args:
        folder: The folder, see :func:`images_in`.
        card: Card whose channels the files have, and whose expression for patients is used where it finds one.

    Raises:
        InputError: There is none, or a name cannot be used.
    """
    cases: dict[str, Case] = {}
    for files in images_in(folder, len(card.bands)):
        place = files[0].relative_to(folder) if files[0].is_relative_to(folder) else Path(files[0].name)
        stem = place.as_posix() if files[0].is_dir() else stem_of(place.as_posix())
        numbered = CHANNEL_SUFFIX.fullmatch(stem) if len(files) > 1 or stem.endswith("_0000") else None
        name = (numbered[1] if numbered else stem).replace("/", "_")
        if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name) or len(name.encode()) > LONGEST:
            raise InputError(f"{files[0]}: its name is too long or holds control characters. Rename the file.")
        if name in cases:
            raise InputError(
                f"{folder}: {cases[name].images[0][0].name} and {files[0].name} have the same name but for their "
                "suffix; rename one or keep them in folders of their own."
            )
        told = re.search(card.layout.patient, name) if card.layout.patient else None
        patient = told[1 if told.re.groups else 0] if told else patient_in(name)
        cases[name] = Case(name, patient or name, images=(files,), split="train", root=folder, labelled=False)
    return [cases[name] for name in sorted(cases)]


def further_cases(folder: Path, card: Card, train: Sequence[Case], hidden: Sequence[Case]) -> list[Case]:
    """Return the images of a folder that may be trained on without labels; others are left out and counted.

    Args:
        folder: The folder.
        card: Card of the labelled data.
        train: Cases of the training split, which are not taken twice.
        hidden: Cases of validation and test, and those that are excluded, of which no image may be seen.

    Raises:
        InputError: See :func:`unlabelled_cases`.
    """
    cases, left, known = unlabelled_cases(folder, card), Held(hidden), Held(train)
    out = [case.name for case in cases if left.holds(case)]
    again = [case.name for case in cases if not left.holds(case) and known.has_files(case)]
    where = f"{len(cases)} images in {folder}"
    if out:
        note(f"note: {len(out)} of {where}, such as {out[0]}, are of held-out or excluded cases and are left out.")
    if again:
        note(f"note: {len(again)} of {where}, such as {again[0]}, are in the training split already.")
    return [case for case in cases if case.name not in {*out, *again}]

"""Folders of images without labels, found as ``predict`` finds them, and what is assumed of them without a card."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import CardClass, CardNormalisation, Layout
from mlla_seg.data.card_splits import CardSplits
from mlla_seg.data.cases import LONGEST, Case
from mlla_seg.data.dataspec import class_colour
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES
from mlla_seg.data.formats.registry import PHOTO_SUFFIXES, is_readable, read_image, suffix_of
from mlla_seg.data.patients import patient_in
from mlla_seg.data.polygon_folder import channels_of, is_polygon_folder
from mlla_seg.data.slices import ZSCORE
from mlla_seg.data.tree import stem_of
from mlla_seg.errors import InputError
from mlla_seg.inference.files import CHANNEL_SUFFIX, find_images
from mlla_seg.progress import note_once

MASK = re.compile(r"(?<![a-z])(?:masks?|labels?|seg|segmentations?|gt)(?![a-z])", re.IGNORECASE)
"""Words in names of masks."""
CLASSES = ("background", "foreground")
"""Classes of the card, as every card has two; no label is read."""
TREE = "images of one kind, such as NAME.nii.gz, NAME.tif or NAME.png, or folders of DICOM files"


def is_image_folder(root: Path) -> bool:
    """Return whether nothing below a folder describes labels: neither a ``dataset.json`` nor polygons."""
    return not (root / "dataset.json").exists() and not is_polygon_folder(root)


def image_folder_card(root: Path, channels: Sequence[str] | None = None) -> Card:
    """Build a card for a folder of images without labels, from its first image.

    Photos and rasters are standardised by mean and standard deviation over all images, volumes each by its own, as in
    nnU-Net; volumes are sliced along their coarsest axis and resampled to the median pixel spacing.

    Args:
        root: The folder.
        channels: Names of the channels; by default those of the first image.

    Raises:
        InputError: There is no image.
    """
    first = images_in(root, 1)[0][0]
    flat = suffix_of(first) in (*RASTER_SUFFIXES, *PHOTO_SUFFIXES)
    names = tuple(channels or _channels(root, first))
    normalisation = {"measured": True} if flat else {"schemes": dict.fromkeys(names, ZSCORE)}
    return Card(
        name=re.sub(r"[^\w-]+", "_", root.absolute().name).strip("_").lower()[:100] or "images",
        title=root.absolute().name,
        modality="unknown",
        channels=names,
        classes=tuple(CardClass(name, class_colour(k)) for k, name in enumerate(CLASSES)),
        normalisation=CardNormalisation(**normalisation),
        layout=Layout(format="files", tree=TREE, patterns=("(?P<case>.+)",)),
        splits=CardSplits(seed=0),
        source="your own",
        licence="your own",
        folder=root,
        plane="acquired",
        spacing_mm=None if flat else (None, "median", "median"),
    )


def _channels(root: Path, first: Path) -> list[str]:
    """Return names of the channels: bands of the first image, or numbers by which files are named as in nnU-Net."""
    stems = [stem_of(path.name) for path in root.iterdir() if is_readable(path)] if root.is_dir() else []
    numbers = {int(match[2]) for stem in stems if (match := CHANNEL_SUFFIX.fullmatch(stem))}
    if len(numbers) > 1 and numbers == set(range(len(numbers))) and all(map(CHANNEL_SUFFIX.fullmatch, stems)):
        return [f"channel {k}" for k in sorted(numbers)]
    if suffix_of(first) in RASTER_SUFFIXES:
        return channels_of(first)
    picture = read_image(first, "acquired")
    count = picture.array.shape[1] - picture.alpha
    if count == 3 and suffix_of(first) in PHOTO_SUFFIXES:
        return ["red", "green", "blue"]
    return [f"channel {k}" for k in range(count)] if count > 1 else ["image"]


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

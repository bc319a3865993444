"""The card of a folder of images that has neither labels nor a card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import CardClass, CardNormalisation, Layout
from mlla_seg.data.card_splits import CardSplits
from mlla_seg.data.dataspec import class_colour
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES
from mlla_seg.data.formats.registry import PHOTO_SUFFIXES, is_readable, read_image, suffix_of
from mlla_seg.data.image_files import CHANNEL_SUFFIX
from mlla_seg.data.polygon_folder import channels_of, is_polygon_folder
from mlla_seg.data.slices import ZSCORE
from mlla_seg.data.tree import stem_of
from mlla_seg.data.unlabelled import images_in

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

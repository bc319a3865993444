"""Recognition of what a folder holds: how its files are named, and which belong together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlla_seg.data.formats.arrays import IMAGE_KEYS, MASK_KEYS
from mlla_seg.data.formats.dicom_files import CONVERT
from mlla_seg.data.formats.dicom_tree import label_objects
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.registry import ARRAY_SUFFIXES, read_mask
from mlla_seg.data.formats.vector_sources import is_vector
from mlla_seg.data.tree import Tree, is_image, list_tree
from mlla_seg.errors import InputError
from mlla_seg.planning.arrays import array_patterns
from mlla_seg.planning.names import Name
from mlla_seg.planning.pairs import Naming, channel_name, find_naming, layout_of

SHOWN = 5
MOST_VALUES = 64
"""Different values up to which a file may be a mask, if no name says so."""


@dataclass(frozen=True)
class Recognised:
    """What a folder holds."""

    what: str
    """In words."""
    layout: Mapping[str, object]
    """The section ``layout`` of a card, without ``tree``."""
    channels: tuple[str, ...] = ()
    """Names of the files of one image, if there are several."""
    left_out: list[str] = field(default_factory=list)
    """Images and masks that belong to no pair."""


def recognise(root: Path) -> Recognised:
    """Find out how the images and masks below a folder are named.

    Raises:
        InputError: The folder is missing or empty, or its files cannot be paired; shows what is there.
    """
    if not root.is_dir():
        raise InputError(f"{root}: {'is a file' if root.exists() else 'does not exist'}; --input takes a folder.")
    if (root / "dataset.json").is_file() and (root / "labelsTr").is_dir():
        return Recognised("an nnU-Net raw or Decathlon folder", {"format": "nnunet"})
    tree = list_tree(root, series=True)
    names = [
        Name(name, name in tree.series)
        for name in tree.names
        if (is_image(name) or name in tree.series) and not _inside(name, tree)
    ]
    if not names:
        raise InputError(f"{root}: holds no image of a known format below it ({_shown(tree.names)}).")
    return _arrays(tree, names) or _polygons(tree, names) or _pairs(tree, names)


def _inside(name: str, tree: Tree) -> bool:
    """Return whether a file is a slice of a DICOM series."""
    return name.rpartition("/")[0] in tree.series and name not in tree.series


def _arrays(tree: Tree, names: Sequence[Name]) -> Recognised | None:
    """Recognise files that hold image and mask as arrays."""
    arrays = [name.whole for name in names if name.suffix in ARRAY_SUFFIXES]
    if not arrays or not all(_holds_both(tree.root / name) for name in {arrays[0], arrays[-1]}):
        return None
    patterns, splits = array_patterns(arrays)
    layout = {"format": "files", "patterns": patterns, **({"split_folders": splits} if splits else {})}
    left_out = [name.whole for name in names if name.suffix not in ARRAY_SUFFIXES]
    what = f"{len(arrays)} files with arrays of an image and its mask, such as {arrays[0]}"
    return Recognised(what, layout, left_out=left_out)


def _holds_both(path: Path) -> bool:
    import h5py

    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                keys = set(file.files)
        else:
            with h5py.File(path) as file:
                keys = set(file)
    except (OSError, ValueError):
        return False
    return bool(keys & set(IMAGE_KEYS)) and bool(keys & set(MASK_KEYS))


def _polygons(tree: Tree, names: Sequence[Name]) -> Recognised | None:
    """Recognise scenes whose labels are polygons: one vector file for each, or one for all."""
    scenes = [name for name in names if name.suffix in RASTER_SUFFIXES]
    labels = [Name(name) for name in tree.names if is_vector(name)]
    if not scenes or not labels or ((naming := find_naming(scenes)) and naming.pairs == len(naming.masks) > 1):
        return None  # without polygons, or with masks as well
    known = set(labels)
    shared = len(labels) == 1 and len(scenes) > 1
    naming = None if shared else find_naming([*scenes, *labels], known.__contains__, named=False)
    if naming and (naming.pairs > 1 or len(labels) == 1):
        return _recognised(tree, [*names, *labels], naming)
    if len(labels) > 1:
        shown = ", ".join(name.whole for name in labels[:SHOWN])
        raise InputError(
            f"{tree.root}: holds {len(scenes)} scenes and {len(labels)} vector files ({shown}) whose names do not "
            "correspond. Give each the name of its scene, keep one for all, or list the pairs in a CSV."
        )
    suffixes = "|".join(sorted({re.escape(name.suffix[1:]) for name in scenes}))
    layout = {"format": "files", "patterns": [rf"(?P<case>.+)\.(?i:{suffixes})"], "mask": labels[0].whole}
    what = f"{len(scenes)} scenes, such as {scenes[0].whole}, with the polygons of {labels[0].whole}"
    return Recognised(what, layout)


def _pairs(tree: Tree, names: Sequence[Name]) -> Recognised:
    naming = find_naming(names, lambda name: _looks_like_mask(tree.root / name.whole))
    if naming is None:
        if all(name.series for name in names) and (labels := label_objects(tree.root)):
            raise InputError(
                f"{tree.root}: finds {len(names)} DICOM series without masks, and {len(labels)} DICOM segmentations or "
                f"structure sets, such as {labels[0].relative_to(tree.root)}, which are not read as masks. {CONVERT}"
            )
        raise InputError(
            f"{tree.root}: finds no images with masks of corresponding names among {len(names)} files "
            f"({_shown([name.whole for name in names])}). Give masks the names of their images, with the word mask, "
            "label or seg in the name or its folder, or list the pairs in a CSV: see docs/datasets.md."
        )
    return _recognised(tree, names, naming)


def _recognised(tree: Tree, names: Sequence[Name], naming: Naming) -> Recognised:
    try:
        layout = layout_of(naming)
    except ValueError as error:
        raise InputError(
            f"{tree.root}: pairs {naming.pairs} images with masks, but {error}. List the pairs in a CSV: see "
            "docs/datasets.md."
        ) from error
    used = {name.whole for there in (naming.masks, *naming.images.values()) for name in there.values()}
    paired = set(next(iter(naming.images.values())))
    lost = [name.whole for place, name in naming.masks.items() if place not in paired]
    left_out = sorted([*lost, *(name.whole for name in names if name.whole not in used)])
    channels = tuple(channel_name(affix) for affix in naming.images) if len(naming.images) > 1 else ()
    return Recognised(_in_words(naming), {"format": "files", **layout}, channels, left_out)


def _in_words(naming: Naming) -> str:
    image = next(iter(next(iter(naming.images.values())).values()))
    kind = "DICOM series" if image.series else f"{image.suffix} images"
    channels = f" of {len(naming.images)} files each" if len(naming.images) > 1 else ""
    mask = next(iter(naming.masks.values()))
    return f"{naming.pairs} {kind}{channels}, such as {image.whole}, with masks such as {mask.whole}"


def _looks_like_mask(path: Path) -> bool:
    """Return whether a file holds few different whole numbers."""
    try:
        array: Array = read_mask(path, "acquired").array
    except InputError:
        return False
    if array.shape[1] != 1 or not np.array_equal(array, np.rint(array)):
        return False
    return len(np.unique(array)) <= MOST_VALUES


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "") if names else "it is empty"

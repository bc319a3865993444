"""Photos and tiles without georeference: one slice each; masks are indexed PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlla_seg.data.formats.arrays import IMAGE_KEYS
from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.data.formats.picture import Array, Picture, compact


def read_photo(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read an image; an indexed file gives its colours as an image and its indices as a mask."""
    from PIL import Image

    with Image.open(path) as image:
        indexed = image.mode == "P" and keys is IMAGE_KEYS
        array = np.array(image.convert("RGB") if indexed else image)
    if array.ndim == 2:
        return Picture(compact(array[None, None]))
    return Picture(compact(np.moveaxis(array, 2, 0)[None]))


def write_png(path: Path, mask: Array, classes: Sequence[ClassInfo], source: Path, plane: str) -> None:
    """Write an indexed PNG in the colours of the classes."""
    from PIL import Image

    palette = np.zeros((256, 3), np.uint8)
    for entry in classes:
        palette[entry.id] = entry.colour
    image = Image.fromarray(mask[0], mode="P")
    image.putpalette(palette.ravel().tolist())
    image.save(path)

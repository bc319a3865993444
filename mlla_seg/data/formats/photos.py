"""Photos and tiles without georeference: one slice each; masks are indexed PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlla_seg.data.formats.arrays import IMAGE_KEYS
from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.data.formats.picture import Array, Picture, compact
from mlla_seg.errors import InputError

DEEP = (";16", ";12")
"""Marks of PIL's decoders for colours of more than 8 bits, which it would round to 8."""


def read_photo(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read an image as a viewer shows it, turned by its EXIF orientation, in the depth of its file.

    An indexed file gives its colours as an image and its indices as a mask; of a file of one bit, values are 0 and 1.

    Raises:
        InputError: The image is so large that PIL takes it for an attack.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode in ("RGB", "RGBA") and any(mark in str(image.tile) for mark in DEEP):
                return _read_deep(path)
            indexed = image.mode == "P" and keys is IMAGE_KEYS
            turned = ImageOps.exif_transpose(image)
            array = np.array(turned.convert("RGB") if indexed else turned)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: has too many pixels for a photo ({' '.join(str(error).split())}). Save it as a GeoTIFF, which is "
            "read by windows."
        ) from error
    array = array.astype(np.uint8) if array.dtype == bool else array
    if array.ndim == 2:
        return Picture(compact(array[None, None]))
    return Picture(compact(np.moveaxis(array, 2, 0)[None]))


def _read_deep(path: Path) -> Picture:
    """Read colours of 16 bits, which PIL cannot."""
    from mlla_seg.data.formats.geotiff import import_rasterio

    with import_rasterio(path).open(path) as file:
        return Picture(compact(file.read()[None]))


def write_png(path: Path, mask: Array, classes: Sequence[ClassInfo], source: Path, plane: str) -> None:
    """Write an indexed PNG in the colours of the classes."""
    from PIL import Image

    palette = np.zeros((256, 3), np.uint8)
    for entry in classes:
        palette[entry.id] = entry.colour
    image = Image.fromarray(mask[0], mode="P")
    image.putpalette(palette.ravel().tolist())
    image.save(path)

"""Photos and tiles without georeference: one slice each; masks are indexed PNG files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.arrays import IMAGE_KEYS, MASK_KEYS
from mlla_seg.data.formats.bands import Wanted, alpha_note
from mlla_seg.data.formats.claims import DEFLATE, require_room
from mlla_seg.data.formats.classes import IGNORE_INDEX, ClassInfo
from mlla_seg.data.formats.drivers import OFFLINE
from mlla_seg.data.formats.gaps import mark_gaps
from mlla_seg.data.formats.picture import Array, Picture, compact
from mlla_seg.errors import InputError

FORMATS = ("PNG", "JPEG", "BMP")
"""Formats that are tried; some others of PIL start programs, or read other files."""
UNPLACED = (
    "a world file tells its place on the ground, which is not used for photos and which masks of them lack; convert it "
    "to GeoTIFF with gdal_translate to keep it"
)
TURNED = (
    "its EXIF orientation turns it, as viewers and labelling tools do; its mask is of the photo as shown, not of the "
    "pixels as stored"
)
TURNED_MASK = "the EXIF orientation of its mask turns that, as viewers do; the mask of pixels as stored has no such tag"
ORIENTATION = 0x0112
"""EXIF tag that is 1 where pixels are stored as they are shown, and up to 8 where they are not."""
DEEP = (";16", ";12")
"""Marks of PIL's decoders for colours of more than 8 bits, which it would round to 8."""


def read_photo(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read an image as a viewer shows it, turned by its EXIF orientation, in the depth of its file.

    An indexed file gives its colours as an image and its indices as a mask; of a file of one bit, values are 0 and 1.
    Transparency of an image is an alpha channel; masks of indices or colours are read without that of their palette.

    Raises:
        InputError: The image is so large that PIL takes it for an attack, or it is an animation.
    """
    from PIL import Image, ImageOps

    try:
        # A large picture is compared with its file and the memory instead.
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as image:
            claimed = (len(image.getbands()), image.height, image.width)
            if image.format == "PNG" and (frames := getattr(image, "n_frames", 1)) > 1:  # of JPEG, previews
                raise InputError(
                    f"{path}: is an animation of {frames} images, and only single ones are read. Save each as a file "
                    "of its own."
                )
            require_room(path, claimed, 4 if image.mode in "IF" else 1, path.stat().st_size, 8 * DEFLATE)
            if image.mode in ("RGB", "RGBA") and any(mark in str(image.tile) for mark in DEEP):
                return _read_deep(path)
            sideways = image.getexif().get(ORIENTATION) in range(2, 9)
            turned = ImageOps.exif_transpose(image)
            if turned.mode in ("P", "PA") and keys is not MASK_KEYS:
                turned = turned.convert("RGBA" if keys is IMAGE_KEYS and _transparent(turned) else "RGB")
            elif keys is IMAGE_KEYS and turned.mode in ("L", "RGB") and _transparent(turned):
                turned = turned.convert("LA" if turned.mode == "L" else "RGBA")
            array, alpha = np.array(turned), turned.mode in ("LA", "RGBA")
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: has too many pixels for a photo ({' '.join(str(error).split())}). Save it as a GeoTIFF, which is "
            "read by windows."
        ) from error
    array = array.astype(np.uint8) if array.dtype == bool else array
    notes: tuple[str, ...] = (UNPLACED,) if keys is IMAGE_KEYS and _has_world_file(path) else ()
    if sideways:
        notes += (TURNED if keys is IMAGE_KEYS else TURNED_MASK,)
    if array.ndim == 2:
        return Picture(compact(array[None, None]), notes=notes)
    return Picture(compact(np.moveaxis(array, 2, 0)[None]), alpha=alpha, notes=notes)


def _has_world_file(path: Path) -> bool:
    """Return whether a world file, such as ``a.jgw`` or ``a.jpgw`` for ``a.jpg``, places an image on the ground."""
    suffix = path.suffix.lower()
    endings = (f"{suffix[:2]}{suffix[-1:]}w", f"{suffix}w", ".wld")
    return any(path.with_suffix(case).is_file() for ending in endings for case in (ending, ending.upper()))


def _transparent(image: Any) -> bool:
    """Return whether a palette or a single colour is tagged as transparent."""
    return image.mode == "PA" or "transparency" in image.info


def _read_deep(path: Path) -> Picture:
    """Read colours of 16 bits, which PIL cannot."""
    from mlla_seg.data.formats.geotiff import import_rasterio

    rasterio = import_rasterio(path)
    with rasterio.Env(**OFFLINE), rasterio.open(path, driver="PNG") as file:
        return Picture(compact(file.read()[None]), alpha=file.colorinterp[-1].name == "alpha")


def with_gaps(picture: Picture, wanted: Wanted) -> Picture:
    """Return a photo as a network expects it: NaN where it is transparent or has the value without data.

    An alpha channel counts as a channel only if as many are expected.
    """
    array, count = picture.array, picture.array.shape[1]
    if not picture.alpha and wanted.gaps.nodata is None:
        return picture
    hidden = picture.alpha and count not in wanted.counts and count - 1 in wanted.counts
    said = alpha_note(hidden, picture.alpha and count in wanted.counts)
    transparent = array[:, -1] == 0 if hidden else np.zeros(array[:, 0].shape, bool)
    array = array[:, :-1] if hidden else array
    channels = array.shape[1]
    colour = channels >= 3 and array.dtype in (np.uint8, np.uint16)
    bands = array.astype(np.float32)
    for k, image in enumerate(bands):
        mark_gaps(image, wanted.gaps.tags([None] * channels, colour, ""))
        image[:, transparent[k]] = np.nan
    gaps = bool(np.isnan(bands).any())
    return replace(picture, array=bands if gaps else array, gaps=gaps, alpha=False, notes=(*picture.notes, *said))


def write_png(path: Path, mask: Array, classes: Sequence[ClassInfo], source: Path, plane: str) -> None:
    """Write an indexed PNG in the colours of the classes, transparent where there is no data."""
    from PIL import Image

    if mask.dtype == np.uint16:  # ids that no palette has
        Image.fromarray(mask[0]).save(path)
        return
    palette = np.zeros((256, 3), np.uint8)
    for entry in classes:
        palette[entry.id] = entry.colour
    image = Image.fromarray(mask[0], mode="P")
    image.putpalette(palette.ravel().tolist())
    gaps = IGNORE_INDEX not in [entry.id for entry in classes] and (mask == IGNORE_INDEX).any()
    if gaps:
        image.info["transparency"] = IGNORE_INDEX
    image.save(path)

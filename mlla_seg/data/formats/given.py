"""Images as users pass them: files, nibabel and SimpleITK images, and arrays with an affine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.bands import Wanted
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES
from mlla_seg.data.formats.headers import require_affine, sheared
from mlla_seg.data.formats.picture import Array, Picture
from mlla_seg.data.formats.registry import PHOTO_SUFFIXES, read_channels, suffix_of
from mlla_seg.data.formats.volume_masks import geometry_of
from mlla_seg.data.formats.volumes import (
    Geometry,
    geometry_of_itk,
    geometry_of_nibabel,
    picture_of_itk,
    picture_of_nibabel,
    turn_back,
    turn_to_plane,
)
from mlla_seg.errors import InputError, program


@dataclass(frozen=True)
class Given:
    """An image as passed by the user, with the way back to its grid."""

    name: str
    """Name for messages."""
    picture: Picture
    """Image as the network sees it."""
    back: Callable[[Array], Array]
    """Converts labels ``(S, H, W)`` of the picture to labels on the grid of the given image."""


def is_bare(image: Any) -> bool:
    """Return whether an image is a plain array, without orientation."""
    return hasattr(image, "__array__") and not _is_nibabel(image) and not _is_itk(image)


def read_given(
    image: Any,
    plane: str,
    array_units: Mapping[str, float] | None = None,
    affine: Array | None = None,
    wanted: Wanted | None = None,
) -> Given:
    """Read an image, however it is given, as slices of a plane.

    Args:
        image: Path, paths of the channels of one image, nibabel or SimpleITK image, or array ``(I, J, K)`` or ``(I, J,
            K, C)`` along the axes of its affine.
        plane: See :func:`mlla_seg.data.formats.volumes.axes_of`.
        array_units: See :func:`mlla_seg.data.formats.registry.read_image`.
        affine: ``(4, 4)`` of an array, from its indices to millimetres (right, anterior, superior).
        wanted: See :func:`mlla_seg.data.formats.registry.read_channels`.

    Raises:
        InputError: The type is not supported, or the image cannot be read.
    """
    if is_bare(image):
        return _placed(np.asarray(image), plane, affine)
    if affine is not None:
        raise InputError(f"affine is only for arrays; a {type(image).__name__} has its own.")
    if _is_nibabel(image):
        name = image.get_filename() or "the image"
        grid = geometry_of_nibabel(image, name)
        shape = image.shape[:3]
        return _turned(name, picture_of_nibabel(image, plane, name), grid, lambda labels: labels.reshape(shape))
    if _is_itk(image):
        shape = image.GetSize()[:3][::-1]
        grid = geometry_of_itk(image, "the image")
        picture = picture_of_itk(image, plane, "the image")
        return _turned("the image", picture, grid, lambda labels: labels.transpose(2, 1, 0).reshape(shape))
    files = [image] if isinstance(image, (str, Path)) else image
    if not isinstance(files, Sequence) or not files or not all(isinstance(path, (str, Path)) for path in files):
        raise InputError(
            f"Cannot segment a {type(image).__name__}. Give a path, a nibabel or SimpleITK image, or an array."
        )
    return _read([Path(path) for path in files], plane, array_units, wanted)


def _is_nibabel(image: Any) -> bool:
    return hasattr(image, "dataobj") and hasattr(image, "affine")


def _is_itk(image: Any) -> bool:
    return hasattr(image, "GetDirection") and hasattr(image, "GetNumberOfComponentsPerPixel")


def _placed(array: Array, plane: str, affine: Array | None) -> Given:
    if array.ndim not in (3, 4):
        raise InputError(f"An array with an affine must be (I, J, K) or (I, J, K, C), found shape {array.shape}.")
    affine = np.asarray(affine, np.float64)
    require_affine("the array", affine)
    i, j, k = array.shape[:3]
    grid = Geometry((i, j, k), affine, sheared(affine))
    return _turned("the array", turn_to_plane(array, grid, plane), grid, lambda labels: labels)


def _read(files: Sequence[Path], plane: str, array_units: Mapping[str, float] | None, wanted: Wanted | None) -> Given:
    first, suffix = files[0], suffix_of(files[0])
    if suffix in RASTER_SUFFIXES:
        raise InputError(f"{first}: a raster is segmented block by block, with: {program()} predict.")
    picture = read_channels(files, plane, array_units, wanted)
    if picture.axes is None:
        return Given(str(first), picture, lambda labels: labels[0] if suffix in PHOTO_SUFFIXES else labels)
    return _turned(str(first), picture, geometry_of(first), lambda labels: labels)


def _turned(name: str, picture: Picture, grid: Geometry, shaped: Callable[[Array], Array]) -> Given:
    axes = str(picture.axes)
    return Given(name, picture, lambda labels: shaped(turn_back(labels, grid, axes)))

"""Reading of cases as checked pieces of image and labels: volumes whole, scenes in strips of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.blocks import part_of
from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES, Raster, open_rasters
from mlla_seg.data.formats.picture import Array, Picture, gaps_of, require_finite
from mlla_seg.data.formats.raster_grids import flat_ground
from mlla_seg.data.formats.registry import PHOTO_SUFFIXES, read_channels, read_mask, suffix_of
from mlla_seg.data.formats.vector_sources import VECTOR_SUFFIXES, is_vector
from mlla_seg.data.formats.voxel_grids import require_same_grid
from mlla_seg.data.formats.vrt_sources import require_local
from mlla_seg.data.labels import class_indices, note_nodata, refuse_unknown
from mlla_seg.data.polygon_labels import PolygonLabels, labelled_area, polygon_labels
from mlla_seg.errors import InputError, about

STRIP = 2**22
"""Pixels of a scene read at once."""


@dataclass(frozen=True)
class Piece:
    """Some slices and rows of a case."""

    first: int
    """First slice."""
    top: int
    """First row."""
    image: Array
    """``(S, C, H, W)``."""
    labels: Array
    """``(S, H, W)`` class indices uint8, 255 where ignored."""


@dataclass(frozen=True)
class Source:
    """An open case: its properties, and the pieces that make it up."""

    shape: tuple[int, int, int, int]
    dtype: Any
    pieces: Iterator[Piece]
    spacing_mm: tuple[float, float, float] | None = None
    ground: Ground | None = None
    warped: Mapping[str, float] = field(default_factory=dict)
    """Files on another grid than the image, which are warped to it, and the fraction of it that each covers."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the headers of its image and mask were interpreted."""
    own: int | None = None
    """Pixels that belong to the case, if it consists of blocks of a scene."""


@contextmanager
def open_case(card: Card, case: Case) -> Iterator[Source]:
    """Open a case, whose pieces are read one by one.

    Raises:
        InputError: A file is damaged, the files do not match each other or the card, or the mask has unknown values.
    """
    for path in case.files:
        if suffix_of(path) == ".vrt":
            require_local(path, case.root)
    with _open_whole(card, case) as source:
        if case.part is None:
            yield source
        else:
            with about(case.images[0][0]):
                source = part_of(source, case.part)
            yield source


@contextmanager
def _open_whole(card: Card, case: Case) -> Iterator[Source]:
    if any(suffix_of(path) in RASTER_SUFFIXES for path in case.images[0]):
        with _open_scene(card, case) as source:
            yield source
        return
    if polygons := [path for path in (*case.masks, *case.areas) if is_vector(path)]:
        raise InputError(
            f"{polygons[0]}: polygons label rasters with a georeference, and {case.images[0][0].name} is none. Save it "
            "as GeoTIFF."
        )
    entries: list[Piece] = []
    spacing = None
    notes: dict[str, None] = {}
    first = 0
    for files, mask_path in zip(case.images, case.masks or [files[0] for files in case.images], strict=True):
        image, labels = _read_entry(card, files, mask_path if case.labelled else None)
        if entries and image.array.shape[2:] != entries[0].image.shape[2:]:
            raise InputError(
                f"{files[0]}: shape {image.array.shape[2:]} differs from {case.images[0][0].name} with "
                f"{entries[0].image.shape[2:]}; slices of one volume must have one shape."
            )
        spacing = spacing if entries else image.spacing_mm
        notes.update(dict.fromkeys(image.notes))
        entries.append(Piece(first, 0, image.array, labels))
        first += len(labels)
    _, channels, height, width = entries[0].image.shape
    dtype = np.result_type(*(piece.image.dtype for piece in entries))
    yield Source((first, channels, height, width), dtype, iter(entries), spacing, notes=tuple(notes))


def _read_entry(card: Card, files: tuple[Path, ...], mask_path: Path | None) -> tuple[Picture, Array]:
    """Read image and labels of one volume or slice."""
    image = read_channels(files, card.plane, card.array_units, card.wanted)
    if mask_path is None:
        image = replace(image, array=chosen_bands(card, files, image.array))
        if not image.gaps:
            require_finite(files[0], image)
        return image, np.where(gaps_of(image), IGNORE_INDEX, 0).astype(np.uint8)
    # Its own rounded spacing might select another plane.
    layout = card.layout
    mask = read_mask(mask_path, image.axes or card.plane, layout.coloured_masks, layout.mask_key)
    require_same_grid(files[0], image, mask_path, mask)
    array = chosen_bands(card, files, image.array)
    image = replace(image, array=array)
    if not image.gaps:
        require_finite(files[0], image)
    labels, unknown = class_indices(card, mask.array, mask_path, mask.gaps, mask.nodata)
    refuse_unknown(card, unknown, mask_path)
    of_mask = mask.notes if suffix_of(mask_path) in PHOTO_SUFFIXES else ()
    image = replace(image, notes=(*image.notes, *of_mask, *note_nodata(card, mask.nodata)))
    if image.gaps and array.dtype.kind == "f":
        labels[np.isnan(array).any(axis=1)] = IGNORE_INDEX
    return image, labels


def chosen_bands(card: Card, files: tuple[Path, ...], array: Array) -> Array:
    """Select the channels ``(S, C, H, W)`` that the network sees from those in the files.

    Raises:
        InputError: The number of channels in the files is not that of the card.
    """
    if array.shape[1] != len(card.bands):
        raise InputError(
            f"{files[0]}: has {array.shape[1]} channels, the card {card.name} expects {len(card.bands)} "
            f"({', '.join(card.bands)})."
        )
    if card.bands == card.seen:
        return array
    return np.take(array, [card.bands.index(name) for name in card.seen], axis=1)


@contextmanager
def _open_scene(card: Card, case: Case) -> Iterator[Source]:
    files, mask_path = case.images[0], (case.masks or case.images[0])[0]
    own = mask_path if case.labelled else None
    with open_rasters(files, card.wanted) as image, _open_labels(card, own, image) as labels:
        ground = flat_ground(image.grid)
        areas = [labelled_area(card, path, ground, str(files[0])) for path in case.areas]
        shape = (1, len(card.seen), *image.shape)
        pieces = _strips(card, image, labels, areas, mask_path)
        notes = (*image.notes, *image.chosen, *labels.notes, *(note for area in areas for note in area.notes))
        warped = {**image.warped, **labels.warped}
        yield Source(shape, image.dtype, pieces, ground=image.ground, warped=warped, notes=notes)


@dataclass(frozen=True)
class _Labels:
    """Labels of an open scene."""

    read: Callable[[int, int, int, int], tuple[Array, Counter[float]]]
    """Returns class indices ``(1, height, width)`` of a window, and the number of pixels of each unknown value."""
    notes: tuple[str, ...]
    warped: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def _open_labels(card: Card, path: Path | None, image: Raster) -> Iterator[_Labels]:
    """Open the mask of a scene, a raster or polygons; without one, everything is of the first class."""
    if path is None:
        yield _Labels(lambda top, left, height, width: (np.zeros((1, height, width), np.uint8), Counter()), ())
        return
    if key := card.layout.mask_key:
        raise InputError(
            f"{path}: {key} names an array in an h5 or npz file, and a scene has none. Name its mask file."
        )
    if is_vector(path):
        polygons = polygon_labels(card, path, flat_ground(image.grid), str(image.paths[0]))
        yield _Labels(lambda *part: (polygons.read(*part)[None], Counter()), polygons.notes)
        return
    if suffix_of(path) not in (*RASTER_SUFFIXES, *PHOTO_SUFFIXES):
        raise InputError(
            f"{path}: the mask of a scene must be a raster or an image file, such as .tif or .png, or polygons "
            f"({', '.join(VECTOR_SUFFIXES)})."
        )
    with open_rasters([path], like=image, labels=True, colours=card.layout.coloured_masks) as mask:

        def read(top: int, left: int, height: int, width: int) -> tuple[Array, Counter[float]]:
            stored = mask.read_seen(top, left, height, width, raw=True)[None]
            return class_indices(card, stored, path, True, mask.nodata)

        yield _Labels(read, note_nodata(card, mask.nodata), mask.warped)


def _strips(
    card: Card, image: Raster, labels: _Labels, areas: Sequence[PolygonLabels], mask_path: Path
) -> Iterator[Piece]:
    """Yield a scene in strips from top to bottom; unknown mask values are reported once, for the whole scene."""
    height, width = image.shape
    rows = max(1, STRIP // width)
    unknown: Counter[float] = Counter()
    for top in range(0, height, rows):
        part = (top, 0, min(rows, height - top), width)
        pixels = image.read_seen(*part)
        known, wrong = labels.read(*part)
        unknown.update(wrong)
        known[0, np.isnan(pixels).any(axis=0)] = IGNORE_INDEX  # no data: excluded from training and scores
        for area in areas:
            known[0, area.read(*part) == IGNORE_INDEX] = IGNORE_INDEX
        yield Piece(0, top, pixels.astype(image.dtype)[None], known)
    refuse_unknown(card, unknown, mask_path)

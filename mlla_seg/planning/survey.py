"""Survey of a data set: what its images and masks hold, read from enough of its cases."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlla_seg.data.cases import Case
from mlla_seg.data.formats.bands import COLOURS
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES, Raster, open_rasters
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.raster_colours import alpha_band
from mlla_seg.data.formats.registry import ARRAY_SUFFIXES, PHOTO_SUFFIXES, read_image, read_mask, suffix_of
from mlla_seg.data.formats.vector_sources import is_vector
from mlla_seg.data.labels import advice_on_channels, whole_ids, without_colour
from mlla_seg.errors import InputError
from mlla_seg.planning.attributes import survey_polygons
from mlla_seg.progress import note, progress

Kind = Literal["volume", "array", "scene", "photo"]
MOST_IMAGES = 40
"""Cases of which the image is read, evenly spaced."""
MOST_PIXELS = 3 * 10**8
"""Pixels of masks after which no more masks are read."""
SIDE = 256
"""Side of the windows that are read of a scene."""
WINDOWS = 16
"""Windows that are read of a scene's image."""
MOST_PROBLEMS = 0.5
"""Fraction of the cases above which unreadable ones are not left out, but an error."""
MOST_VALUES = 256
"""Different values up to which a mask holds classes."""
SAMPLE = 20_000
"""Values that are kept of each image."""


@dataclass
class Survey:
    """What the cases of a data set hold."""

    kind: Kind
    cases: int
    images: int = 0
    """Images that were read."""
    masks: int = 0
    """Masks that were read."""
    shapes: list[tuple[int, int, int]] = field(default_factory=list)
    """Slices, height and width of each image that was read."""
    spacings: list[tuple[float, float, float]] = field(default_factory=list)
    """Spacing of slices, rows and columns in mm."""
    bands: list[tuple[str, ...]] = field(default_factory=list)
    """Names of the bands in each file of an image; empty text where a file names none."""
    located: bool = False
    """Whether the images are placed on the ground."""
    low: float = np.inf
    high: float = -np.inf
    whole: bool = True
    """Whether all values of the images are whole numbers."""
    values: Counter[int] = field(default_factory=Counter)
    """Pixels by value of the mask."""
    colours: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    """Pixels by colour of the mask, for masks that store colours."""
    names: dict[int, str] = field(default_factory=dict)
    """Names of mask values that the files give."""
    nodata: set[float] = field(default_factory=set)
    """Values that masks tag as without data."""
    polygons: Counter[str] = field(default_factory=Counter)
    """Polygons by the value of their attribute, for labels that are polygons."""
    attribute: str | None = None
    """Attribute of the polygons that tells their class."""
    lossy: bool = False
    """Whether masks are JPEG files, whose values are not exact."""

    @property
    def is_flat(self) -> bool:
        """Whether the images are scenes or photos."""
        return self.kind in ("scene", "photo")


def survey(cases: Sequence[Case]) -> Survey:
    """Read what is needed to plan a training, with a progress bar: some images, and as many masks as is quick.

    Cases that cannot be read are left out with a note.

    Raises:
        InputError: Most cases cannot be read.
    """
    order = list(cases)
    random.Random(0).shuffle(order)
    vectors = sorted({path for case in order for path in case.masks if is_vector(path)})
    found = Survey(kind_of(order[0].images[0][0]), len(order))
    seen = order[:MOST_IMAGES]
    problems = []
    if vectors:
        found.attribute, found.polygons = survey_polygons(vectors)
        found.masks = len(order)
    with progress(len(order), "Surveying", "case", leave=False) as bar:
        for case in order:
            try:
                if case in seen:
                    _survey_image(found, case)
                if not vectors and (case in seen or _counted(found) < MOST_PIXELS):
                    _survey_mask(found, case)
            except InputError as error:
                problems.append(str(error))
            bar.update()
    if problems:
        if len(problems) > MOST_PROBLEMS * len(seen) or not found.images:
            raise InputError(f"{problems[0]} ({len(problems)} of {len(order)} cases cannot be read.)")
        note(f"note: {len(problems)} of {len(order)} cases are left out of the survey, such as {problems[0]}")
    return found


def _counted(found: Survey) -> int:
    """Return the number of pixels of masks that were read."""
    return sum(found.values.values()) + sum(found.colours.values())


def kind_of(path: Path) -> Kind:
    """Return what kind of image a file holds."""
    suffix = suffix_of(path)
    kinds: dict[Kind, Sequence[str]] = {"scene": RASTER_SUFFIXES, "photo": PHOTO_SUFFIXES, "array": ARRAY_SUFFIXES}
    return next((kind for kind, suffixes in kinds.items() if suffix in suffixes), "volume")


def _survey_image(found: Survey, case: Case) -> None:
    files = case.images[0]
    if found.kind == "scene":
        with open_rasters(files) as raster:
            found.shapes.append((1, *raster.shape))
            found.located |= raster.ground is not None
            found.bands = found.bands or [_band_names(raster, k) for k in range(len(files))]
            for window in _windows(raster):
                _note_values(found, raster.read(*window))
    else:
        pictures = [read_image(path, "acquired") for path in files]
        slices, _, height, width = pictures[0].array.shape
        found.shapes.append((max(slices, len(case.images)), height, width))
        if spacing := pictures[0].spacing_mm:
            found.spacings.append(spacing)
        counts = [picture.array.shape[1] - picture.alpha for picture in pictures]
        usual = COLOURS if found.kind == "photo" and counts == [3] else ()
        found.bands = found.bands or [tuple(usual) or ("",) * count for count in counts]
        for picture in pictures:
            _note_values(found, picture.array)
    found.images += 1


def _band_names(raster: Raster, file: int) -> tuple[str, ...]:
    """Return the names of a file's bands: what the file says, or the colours for three bands."""
    dataset = raster.datasets[file]
    described = [text or "" for text in dataset.descriptions]
    colours = [interpretation.name for interpretation in dataset.colorinterp]
    if len(set(described)) < len(described) or not all(described):
        described = [name if name in COLOURS else "" for name in colours]
    alpha = alpha_band([dataset])
    return tuple(name for k, name in enumerate(described) if k != alpha)


def _windows(raster: Raster) -> Iterator[tuple[int, int, int, int]]:
    """Yield evenly spaced windows as first row and column, height and width."""
    height, width = raster.shape
    steps = max(1, round(WINDOWS**0.5))
    rows = sorted({round(k * max(0, height - SIDE) / max(1, steps - 1)) for k in range(steps)})
    columns = sorted({round(k * max(0, width - SIDE) / max(1, steps - 1)) for k in range(steps)})
    for top in rows:
        for left in columns:
            yield top, left, min(SIDE, height - top), min(SIDE, width - left)


def _note_values(found: Survey, array: Array) -> None:
    values = array.ravel()
    values = values[:: max(1, values.size // SAMPLE)]
    values = values[np.isfinite(values)]
    if values.size:
        found.low, found.high = min(found.low, float(values.min())), max(found.high, float(values.max()))
        found.whole &= bool(np.array_equal(values, np.rint(values)))


def _survey_mask(found: Survey, case: Case) -> None:
    for path in case.masks or [files[0] for files in case.images]:
        found.lossy |= suffix_of(path) in (".jpg", ".jpeg")
        if suffix_of(path) in RASTER_SUFFIXES:
            with open_rasters([path]) as raster:
                found.nodata.update(raster.nodata)
                found.names.update(_category_names(raster.datasets[0]))
                height, width = raster.shape
                rows = max(1, 2**22 // width)
                for top in range(0, height, rows):
                    _count(found, path, raster.read(top, 0, min(rows, height - top), width, raw=True)[None])
        else:
            if suffix_of(path) == ".seg.nrrd":
                found.names.update(segment_names(path))
            _count(found, path, read_mask(path, "acquired").array)
        if len(found.values) > MOST_VALUES and not found.lossy:
            raise InputError(
                f"{path}: holds {len(found.values)} different values, too many for the classes of a mask. If it is an "
                "image, name the masks so that they can be told apart; see docs/datasets.md."
            )
    found.masks += 1


def _category_names(dataset: Any) -> dict[int, str]:
    """Return the names of values that a raster's tags give as ``CLASS_n``, as this project writes them."""
    tags = {**dataset.tags(), **dataset.tags(1)}
    return {
        int(number): name
        for key, name in tags.items()
        if (number := key.upper().removeprefix("CLASS_")) != key.upper() and number.isdecimal() and name
    }


def segment_names(path: Path) -> dict[int, str]:
    """Return the names of mask values in the header of a segmentation of 3D Slicer."""
    with path.open("rb") as file:
        header = file.read(2**16).split(b"\n\n")[0].decode("utf-8", "replace")
    fields = dict(re.findall(r"^(Segment\d+_(?:Name|LabelValue)):=(.*?)\r?$", header, re.MULTILINE))
    keys = {key.partition("_")[0] for key in fields}
    pairs = [(fields.get(f"{key}_LabelValue", ""), fields.get(f"{key}_Name", "")) for key in sorted(keys)]
    return {int(value): name for value, name in pairs if value.isdecimal() and name}


def _count(found: Survey, path: Path, mask: Array) -> None:
    """Count the pixels of each value, or of each colour."""
    present = np.isfinite(mask).all(axis=1)
    mask = without_colour(mask)
    if mask.shape[1] == 1:
        values = whole_ids(mask[:, 0][present])
        if not np.array_equal(values, np.rint(values)):
            raise InputError(f"{path}: has values that are no whole numbers, so it is no mask of classes.")
        numbers, counts = np.unique(values.astype(np.int64), return_counts=True)
        found.values.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        return
    if mask.shape[1] not in (3, 4):
        raise InputError(f"{path}: has {mask.shape[1]} channels; {advice_on_channels(mask)}")
    colours = np.moveaxis(mask[:, :3], 1, -1)[present].astype(np.int64)
    codes, counts = np.unique(colours @ np.array([65536, 256, 1]), return_counts=True)
    for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
        found.colours[code >> 16, code >> 8 & 255, code & 255] += count

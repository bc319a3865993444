"""Data set cards: everything the program needs to know about a data set, so that a new one needs no Python.

A card, ``datasets/<name>/dataset.yaml``, describes channels, classes, file layout, splits, source and licence. The
docstring of each field serves as the expected value in error messages and as the description in the JSON schema, which
``python -m mlla_seg.data.card`` prints for editors. What a trained network must remember of its data is a
:class:`~mlla_seg.data.dataspec.DataSpec`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from pydantic import TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from mlla_seg.data.card_errors import explain
from mlla_seg.data.card_sections import (
    CONFIG,
    CardClass,
    CardNormalisation,
    CardScribbles,
    FolderName,
    Id,
    Ids,
    Layout,
    Name,
    Number,
    Step,
    Text,
    Whole,
)
from mlla_seg.data.card_splits import CardSplits
from mlla_seg.data.card_vectors import check_polygon_keys
from mlla_seg.data.dataspec import Normalisation
from mlla_seg.data.formats.bands import Wanted
from mlla_seg.data.formats.classes import ClassInfo, Code
from mlla_seg.data.formats.gaps import Gaps
from mlla_seg.data.regions import Region, in_order, read_regions
from mlla_seg.data.schemes import CT, RGB, normalisation_of
from mlla_seg.data.shipped import shipped
from mlla_seg.data.slices import ZSCORE
from mlla_seg.errors import InputError, lookup
from mlla_seg.progress import say
from mlla_seg.texts import read_yaml


@dataclass(frozen=True, config=CONFIG)
class Card:
    """Description of one data set. See ``docs/datasets.md``."""

    name: FolderName
    """a name, also used for the cache folder"""
    title: Text
    """a one-line description of the data"""
    modality: Name
    """the modality, such as CT, MR or aerial"""
    channels: Annotated[tuple[Name, ...], MinLen(1)]
    """a list of names of the channels in the image files, in order"""
    classes: Annotated[tuple[CardClass, ...], MinLen(2)]
    """a list of at least two classes, each {name: ..., colour: [red, green, blue]}"""
    normalisation: CardNormalisation
    """keys such as mean, std and window, or per_image: true"""
    layout: Layout
    """format, tree and, with format files, patterns"""
    splits: CardSplits
    """train: a file, or a seed with val and test fractions, or csv: a table, or blocks of scenes"""
    source: Text
    """where to get the data"""
    licence: Text
    """the terms of use"""
    folder: Path
    """the folder of the card"""
    ignore_index: Whole | None = 255
    """the mask value to exclude from training and scores, or null for none"""
    background: Name | None = "background"
    """the class to exclude from mean scores, or null if every class counts"""
    plane: Literal["axial", "coronal", "sagittal", "acquired"] = "axial"
    """axial, coronal, sagittal or acquired"""
    array_units: dict[Name, Number] | None = None
    """{scale: ..., offset: ...} for h5 and npz files: stored value x scale + offset = units"""
    spacing_mm: tuple[Step, Step, Step] | None = None
    """[slices, rows, columns] in mm, each a number above zero, median, or null to keep the original"""
    nodata: Number | None = None
    """the value of pixels without data in rasters and photos that tag none themselves"""
    nodata_rule: Literal["any", "all"] | None = None
    """any or all: whether a pixel has no data where any band has the value, or only where all bands have it"""
    grid: Name | None = None
    """the channel whose pixel grid is used where files of one scene differ in resolution; by default the finest"""
    largest_class: Name | None = None
    """the class that must have the most voxels"""
    smallest_class: Name | None = None
    """the class expected to have the fewest voxels"""
    use: Annotated[tuple[Name, ...], MinLen(1)] | None = None
    """a list of names of the channels that the network sees, in order"""
    regions: dict[Name, Ids] | None = None
    """names of overlapping regions to train instead of classes, from large to small, each with a list of mask values"""
    regions_class_order: tuple[Id, ...] | None = None
    """a list with the mask value that each region writes, in the order of regions"""
    scribbles: CardScribbles | None = None
    """unlabelled, the value without a stroke, and key or mask: strokes to train from with --data.scribbles true"""
    exclude: dict[Name, Name] | None = None
    """names of cases or patients to leave out, each with the reason in words"""

    @model_validator(mode="after")
    def _check(self) -> Card:
        self._check_classes()
        self._check_files()
        self._check_used(self.seen, unique=self.use is not None)
        _ = self.region_infos  # checks them
        return self

    def _check_classes(self) -> None:
        names, values = self.class_names, [value for k in range(len(self.classes)) for value in self._values(k)]
        if len(names) > 255:
            raise InputError(f"at most 255 classes fit into a mask, found {len(names)}.")
        if len(set(names)) < len(names):
            raise InputError(f"class names repeat: {', '.join(names)}.")
        if len(set(values)) < len(values):
            raise InputError(f"two classes share an id; the ids are {values}.")
        if self.ignore_index in values:
            raise InputError(f"ignore_index {self.ignore_index} is also the id of a class; 255 is usual.")
        for key in ("largest_class", "smallest_class"):
            if getattr(self, key) is not None:
                lookup(dict.fromkeys(names), getattr(self, key), key)

    def _check_files(self) -> None:
        for key in self.array_units or {}:
            lookup({"scale": 1, "offset": 0}, key, "key of array_units")
        places = [place for key in ("mask", "test_mask") for place in self.layout.places(key)]
        check_polygon_keys(self.layout, places, {entry.name: entry.values for entry in self.classes})
        if self.layout.mask_threshold is not None and len(self.classes) != 2:
            raise InputError(f"mask_threshold needs exactly two classes, found {len(self.classes)}.")
        if self.scribbles is not None:
            _ = self.scribbles.values_of(self.values)
            for template in self.scribbles.places:
                self.layout.require_groups("mask of scribbles", template)
        if repeated := sorted(set(self.layout.extra_channels or {}) & set(self.channels)):
            raise InputError(f"extra_channels repeats {repeated}.")
        if self.layout.format == "list" and self.splits.mask is None:
            raise InputError("layout with format list needs csv, image and mask in splits: the table of the files.")
        if self.grid is not None:
            lookup(dict.fromkeys([*self.channels, *(self.layout.extra_channels or {})]), self.grid, "channel for grid")

    def _check_used(self, names: Sequence[str], unique: bool = True) -> None:
        known = dict.fromkeys([*self.channels, *(self.layout.extra_channels or {})])
        for name in (*names, *(self.normalisation.schemes or {})):
            lookup(known, name, "channel")
        schemes = self.normalisation.schemes
        if schemes is not None and (without := [name for name in names if name not in schemes]):
            raise InputError(f"schemes of normalisation lacks {', '.join(without)}; give one for each channel.")
        if unique and (not names or len(set(names)) < len(names)):
            raise InputError(f"channels must be one or more names without repetition, got {', '.join(names)}.")
        for key in ("mean", "std"):
            value = getattr(self.normalisation, key)
            if isinstance(value, tuple) and len(value) != len(names):
                raise InputError(
                    f"{key} of normalisation has {len(value)} values, but the channels are {', '.join(names)}. "
                    "Use measured: true instead."
                )

    @property
    def seen(self) -> tuple[str, ...]:
        """Channels that the network sees, in order: ``use``, or all channels of the image files."""
        return self.use or self.channels

    @property
    def schemes(self) -> dict[str, str]:
        """Scheme of each channel that the network sees, see ``schemes.py``; empty for other normalisations."""
        if self.normalisation.schemes is not None:
            return {name: self.normalisation.schemes[name] for name in self.seen}
        everywhere = CT if self.normalisation.foreground else ZSCORE if self.normalisation.per_case else None
        return dict.fromkeys(self.seen, everywhere) if everywhere else {}

    @property
    def under_masks(self) -> bool:
        """Whether values are measured under the masks, without background."""
        return CT in self.schemes.values()

    @property
    def is_measured(self) -> bool:
        """Whether the normalisation is measured, or checked, on the training data."""
        return self.normalisation.measured or bool({CT, RGB} & set(self.schemes.values()))

    @property
    def given_normalisation(self) -> Normalisation:
        """The normalisation of a card whose normalisation is not measured."""
        return normalisation_of(self.schemes) if self.schemes else self.normalisation.given()

    @property
    def further(self) -> dict[str, str]:
        """Channels in use that are stored in files of their own, each with the template of its path."""
        return {name: place for name, place in (self.layout.extra_channels or {}).items() if name in self.seen}

    @property
    def bands(self) -> tuple[str, ...]:
        """Channels in the files of one image, in order."""
        return (*self.channels, *self.further)

    @property
    def gaps(self) -> Gaps:
        """How a value marks pixels without data."""
        return Gaps(self.nodata, self.nodata_rule)

    @property
    def wanted(self) -> Wanted:
        """What the card expects of the images of a case."""
        return Wanted(self.seen, self.bands, self.gaps, self.grid, f"the card {self.name}", complete=True)

    def using(self, names: Sequence[str]) -> Card:
        """Return the card of a network that sees these channels, in this order.

        Raises:
            InputError: A channel is unknown or repeated.
        """
        try:
            self._check_used(names)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error
        return replace(self, use=tuple(names))

    @property
    def class_names(self) -> list[str]:
        return [entry.name for entry in self.classes]

    def _values(self, k: int) -> tuple[int, ...]:
        """Return the mask values of a class."""
        given: Any = self.classes[k].id
        return given if isinstance(given, tuple) else (k if given is None else given,)

    @property
    def values(self) -> dict[str, tuple[int, ...]]:
        """Mask values of each class by its name."""
        return {entry.name: self._values(k) for k, entry in enumerate(self.classes)}

    @property
    def ids(self) -> dict[int, int]:
        """Class index by mask value; values are positions unless the card gives ids."""
        return {value: k for k in range(len(self.classes)) for value in self._values(k)}

    @property
    def class_infos(self) -> tuple[ClassInfo, ...]:
        """Classes, each with the first of its mask values."""
        return tuple(
            ClassInfo(entry.name, entry.colour, self._values(k)[0], Code(**asdict(entry.code)) if entry.code else None)
            for k, entry in enumerate(self.classes)
        )

    @property
    def region_infos(self) -> tuple[Region, ...]:
        """Regions that the network segments, in order; empty if it segments the classes.

        Raises:
            InputError: The regions cannot be written back as masks.
        """
        if not self.regions and self.regions_class_order is None:
            return ()
        given = in_order(self.regions or {}, self.regions_class_order)
        return read_regions(given, self.ids, self.class_names, self.background_index)

    @property
    def background_index(self) -> int | None:
        """Index of the background class, if there is one."""
        return self.class_names.index(self.background) if self.background in self.class_names else None


ADAPTER = TypeAdapter(Card)


def find_card(name: str | Path) -> Path:
    """Return the file of a card, given by path or by name in ``./datasets`` or among the shipped cards."""
    path = Path(name)
    if (path / "dataset.yaml").is_file():
        return path / "dataset.yaml"
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(
                f"No card at {path.absolute()}. Give the path of a dataset.yaml or the name of a shipped card."
            )
        return path
    folders = [Path("datasets"), shipped("datasets")]
    known = {
        found.parent.name: found for folder in reversed(folders) for found in sorted(folder.glob("*/dataset.yaml"))
    }
    return lookup(known, str(name), "data set")


def load_card(name: str | Path) -> Card:
    """Read a card by path or name.

    Raises:
        InputError: There is no such card, or a key is missing, unknown or contradictory.
    """
    path = find_card(name)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} should be a mapping of keys such as name, channels and classes.")
    known = dict.fromkeys(field.name for field in fields(Card) if field.name != "folder")
    for key in content:
        lookup(known, key, f"key in {path}:")
    try:
        return ADAPTER.validate_python({**content, "folder": path.parent})
    except ValidationError as error:
        raise InputError(explain(Card, path, content, error.errors())) from None


def schema() -> dict[str, Any]:
    """Return the JSON schema of cards."""
    content = ADAPTER.json_schema()
    content["properties"].pop("folder")
    content["required"].remove("folder")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **content}


if __name__ == "__main__":
    say(json.dumps(schema(), indent=2))

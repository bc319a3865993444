"""Data set cards: everything the program needs to know about a data set, so that a new one needs no Python.

A card describes channels, classes, file layout, splits, source and licence. ``card_file.py`` reads cards from
``datasets/<name>/dataset.yaml``. The docstring of each field serves as the expected value in error messages and as the
description in the JSON schema. What a trained network must remember of its data is a
:class:`~mlla_seg.data.dataspec.DataSpec`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import ConfigDict, Strict, model_validator
from pydantic.dataclasses import dataclass

from mlla_seg.data.dataspec import Normalisation
from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.errors import InputError, lookup

SPLITS = ("train", "val", "test")
MEDIAN = "median"
"""Spacing value that stands for the median over all cases."""

Flag = Annotated[bool, Strict()]
Name = Annotated[str, Strict()]
Whole = Annotated[int, Strict()]
Number = Annotated[int, Strict()] | Annotated[float, Strict()]
Level = Annotated[int, Strict(), Ge(0), Le(255)]
Colour = tuple[Level, Level, Level]
Id = Annotated[int, Strict(), Ge(0), Lt(2**16)]
Fraction = Annotated[float, Strict(), Ge(0), Lt(1)]
Step = Annotated[float, Strict(), Gt(0)] | Literal["median"] | None
CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, config=CONFIG)
class CardClass:
    """A class of a card."""

    name: Name
    """a name, quoted if YAML would read it as another type (such as no)"""
    colour: Colour
    """[red, green, blue], each from 0 to 255"""
    id: Id | Annotated[tuple[Id, ...], MinLen(1)] | None = None
    """its value in the masks or a list of values, from 0 to 65535; by default its position in classes"""


@dataclass(frozen=True, config=CONFIG)
class CardNormalisation:
    """Standardisation of images in raw units, by given, per-image, per-volume or measured statistics."""

    mean: Number | tuple[Number, ...] = 0.0
    """a number, or one per channel"""
    std: Number | tuple[Number, ...] = 1.0
    """a number above zero, or one per channel"""
    window: tuple[Number, Number] | None = None
    """the intensity window [low, high] to which values are clipped, in raw units"""
    per_image: Flag = False
    """true to standardise each slice by its own mean and standard deviation"""
    per_case: Flag = False
    """true to standardise each volume by its own mean and standard deviation"""
    foreground: Flag = False
    """true to measure window, mean and std under the training masks"""
    measured: Flag = False
    """true to measure mean and std per channel over the training images"""

    @model_validator(mode="after")
    def _check(self) -> CardNormalisation:
        if self.window is not None and self.window[0] >= self.window[1]:
            raise InputError(f"window of normalisation must be [low, high] with low < high, found {list(self.window)}.")
        said = [entry.name for entry in fields(self) if getattr(self, entry.name) != entry.default]
        for key in ("foreground", "measured", "per_case"):
            if getattr(self, key) and len(said) > 1:
                raise InputError(f"{key} of normalisation excludes all other keys, found {' and '.join(said)}.")
        return self

    @property
    def is_measured(self) -> bool:
        """Whether the statistics are measured on the training data."""
        return self.foreground or self.measured

    def given(self) -> Normalisation:
        """Return the statistics given in the card."""
        return Normalisation(self.mean, self.std, self.window, self.per_image, self.per_case)


@dataclass(frozen=True, config=CONFIG)
class Layout:
    """Layout of a data set's files below its root."""

    format: Literal["files", "nnunet"]
    """files (found by patterns) or nnunet (nnU-Net raw folders and Decathlon tasks)"""
    tree: Name
    """the folder structure, shown if the data are missing"""
    patterns: tuple[Name, ...] = ()
    """a list of regular expressions for paths below the root, each with a group (?P<case>...)"""
    mask: Name | tuple[Name, ...] = ()
    """where to find the mask below the root: a template of the pattern's groups, or a list of templates to try"""
    test_mask: Name | tuple[Name, ...] = ()
    """where to find a separate mask for testing, in the same form as mask"""
    extra_channels: dict[Name, Name] | None = None
    """names of additional channels, each with a template of the pattern's groups for its file"""
    split_folders: dict[Name, Literal["train", "val", "test"]] | None = None
    """names of folders, each with the split it stands for: train, val or test"""
    patient: Name | None = None
    """a regular expression that finds the patient in the name of a case"""
    coloured_masks: Flag = False
    """true if masks store the colours of the classes"""
    ignored_colours: tuple[Colour, ...] = ()
    """a list of colours [red, green, blue] to exclude from training and scores"""
    mask_threshold: Number | None = None
    """a number; pixels of a grey mask above it belong to the second of two classes"""

    @model_validator(mode="after")
    def _check(self) -> Layout:
        if self.format == "files" and not self.patterns:
            raise InputError("layout with format files needs patterns: one regular expression per kind of file.")
        for pattern in self.patterns:
            try:
                groups = re.compile(pattern).groupindex
            except re.error as error:
                raise InputError(f"the pattern {pattern!r} is not a valid regular expression ({error}).") from error
            if "case" not in groups:
                raise InputError(f"the pattern {pattern!r} needs a group (?P<case>...), which names the case.")
            for key, template in self._templates():
                used = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
                if unknown := sorted(used - set(groups)):
                    raise InputError(f"{key} uses {unknown}, which the pattern {pattern!r} lacks.")
        return self

    def _templates(self) -> list[tuple[str, str]]:
        """Return every template with its key."""
        found = [(f"extra_channels {name}", template) for name, template in (self.extra_channels or {}).items()]
        return found + [(key, template) for key in ("mask", "test_mask") for template in self.places(key)]

    def places(self, key: str) -> tuple[str, ...]:
        """Return the templates of ``mask`` or ``test_mask`` in the order to try; empty if not given."""
        value: str | tuple[str, ...] = getattr(self, key)
        return (value,) if isinstance(value, str) else value


@dataclass(frozen=True, config=CONFIG)
class CardSplits:
    """Splits by patient: lists in files, or fractions drawn once from a seed."""

    seed: Whole | None = None
    """a whole number; with a seed, val and test are fractions of the patients"""
    train: Name | None = None
    """a file beside the card with one patient per line"""
    val: Name | Fraction | None = None
    """a file beside the card with one patient per line; with a seed, a fraction from 0 to 1"""
    test: Name | Fraction | None = None
    """a file beside the card with one patient per line; with a seed, a fraction from 0 to 1"""

    @model_validator(mode="after")
    def _check(self) -> CardSplits:
        if self.seed is None and self.train is None:
            raise InputError("splits needs train: a file, or a seed with val and test fractions.")
        for name in SPLITS:
            value = getattr(self, name)
            if self.seed is None and not isinstance(value, str | None):
                raise InputError(f"without a seed, the split {name} must be a file, found {value}.")
            if self.seed is not None and isinstance(value, str):
                raise InputError(f"with a seed, the split {name} must be a fraction from 0 to 1, found {value!r}.")
        return self

    @property
    def files(self) -> dict[str, str]:
        """Files with the patients of each split; empty with a seed."""
        named = {name: getattr(self, name) for name in SPLITS}
        return {name: value for name, value in named.items() if isinstance(value, str)}


@dataclass(frozen=True, config=CONFIG)
class Card:
    """Description of one data set. See ``docs/datasets.md``."""

    name: Name
    """a name, also used for the cache folder"""
    title: Name
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
    """train: a file, or a seed with val and test fractions"""
    source: Name
    """where to get the data"""
    licence: Name
    """the terms of use"""
    folder: Path
    """the folder of the card"""
    ignore_index: Whole = 255
    """the mask value to exclude from training and scores"""
    background: Name | None = "background"
    """the class to exclude from mean scores, or null if every class counts"""
    plane: Literal["axial", "coronal", "sagittal", "acquired"] = "axial"
    """axial, coronal, sagittal or acquired"""
    array_units: dict[Name, Number] | None = None
    """{scale: ..., offset: ...} for h5 and npz files: stored value x scale + offset = units"""
    spacing_mm: tuple[Step, Step, Step] | None = None
    """[slices, rows, columns] in mm, each a number above zero, median, or null to keep the original"""
    largest_class: Name | None = None
    """the class that must have the most voxels"""
    smallest_class: Name | None = None
    """the class expected to have the fewest voxels"""
    use: Annotated[tuple[Name, ...], MinLen(1)] | None = None
    """a list of names of the channels that the network sees, in order"""

    @model_validator(mode="after")
    def _check(self) -> Card:
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
        for key in self.array_units or {}:
            lookup({"scale": 1, "offset": 0}, key, "key of array_units")
        if self.layout.mask_threshold is not None and len(names) != 2:
            raise InputError(f"mask_threshold needs exactly two classes, found {len(names)}.")
        if repeated := sorted(set(self.layout.extra_channels or {}) & set(self.channels)):
            raise InputError(f"extra_channels repeats {repeated}.")
        if self.normalisation.foreground and len(self.channels) > 1:
            raise InputError("foreground of normalisation supports only images with one channel.")
        if self.use is not None:
            self._check_used(self.use)
        return self

    def _check_used(self, names: Sequence[str]) -> None:
        for name in names:
            lookup(dict.fromkeys([*self.channels, *(self.layout.extra_channels or {})]), name, "channel")
        if not names or len(set(names)) < len(names):
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
    def further(self) -> dict[str, str]:
        """Channels in use that are stored in files of their own, each with the template of its path."""
        return {name: place for name, place in (self.layout.extra_channels or {}).items() if name in self.seen}

    @property
    def bands(self) -> tuple[str, ...]:
        """Channels in the files of one image, in order."""
        return (*self.channels, *self.further)

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
    def ids(self) -> dict[int, int]:
        """Class index by mask value; values are positions unless the card gives ids."""
        return {value: k for k in range(len(self.classes)) for value in self._values(k)}

    @property
    def class_infos(self) -> tuple[ClassInfo, ...]:
        """Classes, each with the first of its mask values."""
        return tuple(ClassInfo(entry.name, entry.colour, self._values(k)[0]) for k, entry in enumerate(self.classes))

    @property
    def background_index(self) -> int | None:
        """Index of the background class, if there is one."""
        return self.class_names.index(self.background) if self.background in self.class_names else None

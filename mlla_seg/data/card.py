"""The card of a data set: everything the program must know of it, so that a new one needs no Python.

What the channels and classes are, how the files lie, who is in which split, where to get it. ``card_file.py`` reads
cards from ``datasets/<name>/dataset.yaml``. The docstring of a field is what messages and the JSON schema of cards say
is expected. What a trained network must remember is a :class:`~mlla_seg.data.dataspec.DataSpec`.
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
"""In place of a distance: the median of the cases."""

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
    """a name, in quotes where YAML would read a word such as no as something else"""
    colour: Colour
    """[red, green, blue], each from 0 to 255"""
    id: Id | Annotated[tuple[Id, ...], MinLen(1)] | None = None
    """its value in the masks or a list of them, from 0 to 65535; by default its position in classes"""


@dataclass(frozen=True, config=CONFIG)
class CardNormalisation:
    """How images in raw units are standardised: by given numbers, by their own, or by measured ones."""

    mean: Number | tuple[Number, ...] = 0.0
    """a number, or one per channel"""
    std: Number | tuple[Number, ...] = 1.0
    """a number above zero, or one per channel"""
    window: tuple[Number, Number] | None = None
    """the intensity window [low, high] to which values are clipped, in raw units"""
    per_image: Flag = False
    """true for each slice by its own mean and standard deviation"""
    per_case: Flag = False
    """true for each volume by its own mean and standard deviation"""
    foreground: Flag = False
    """true for window, mean and std measured under the training masks"""
    measured: Flag = False
    """true for mean and std per channel measured over the training images"""

    @model_validator(mode="after")
    def _check(self) -> CardNormalisation:
        if self.window is not None and self.window[0] >= self.window[1]:
            raise InputError(f"window of the normalisation is [low, high], found {list(self.window)}.")
        said = [entry.name for entry in fields(self) if getattr(self, entry.name) != entry.default]
        for key in ("foreground", "measured", "per_case"):
            if getattr(self, key) and len(said) > 1:
                raise InputError(f"{key} leaves no other key to normalisation, found {' and '.join(said)}.")
        return self

    @property
    def is_measured(self) -> bool:
        """Whether its numbers are found in the training data."""
        return self.foreground or self.measured

    def given(self) -> Normalisation:
        """The numbers that the card gives."""
        return Normalisation(self.mean, self.std, self.window, self.per_image, self.per_case)


@dataclass(frozen=True, config=CONFIG)
class Layout:
    """How the files of a data set lie below its root."""

    format: Literal["files", "nnunet"]
    """files (found by patterns) or nnunet (nnU-Net's raw folders and Decathlon tasks)"""
    tree: Name
    """how the folder looks, shown to whoever has not got it yet"""
    patterns: tuple[Name, ...] = ()
    """a list of regular expressions for paths below the root, with a group (?P<case>...)"""
    mask: Name | tuple[Name, ...] = ()
    """where masks lie below the root, by the groups of the pattern, or a list of places to look"""
    test_mask: Name | tuple[Name, ...] = ()
    """where other masks for testing lie, likewise"""
    extra_channels: dict[Name, Name] | None = None
    """names of further channels, and where each lies by the groups of the pattern"""
    split_folders: dict[Name, Literal["train", "val", "test"]] | None = None
    """names of folders, and which split each means: train, val or test"""
    patient: Name | None = None
    """a regular expression that finds the patient in the name of a case"""
    coloured_masks: Flag = False
    """true where masks hold the colours of the classes"""
    ignored_colours: tuple[Colour, ...] = ()
    """a list of colours [red, green, blue] that are not learned"""
    mask_threshold: Number | None = None
    """a number, above which a pixel of a grey mask is of the second of two classes"""

    @model_validator(mode="after")
    def _check(self) -> Layout:
        if self.format == "files" and not self.patterns:
            raise InputError("layout with format files needs patterns: a regular expression per kind of file.")
        for pattern in self.patterns:
            try:
                groups = re.compile(pattern).groupindex
            except re.error as error:
                raise InputError(f"the pattern {pattern!r} is no regular expression ({error}).") from error
            if "case" not in groups:
                raise InputError(f"the pattern {pattern!r} needs a group (?P<case>...), which names the case.")
            for key, template in self._templates():
                used = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
                if unknown := sorted(used - set(groups)):
                    raise InputError(f"{key} uses {unknown}, which the pattern {pattern!r} lacks.")
        return self

    def _templates(self) -> list[tuple[str, str]]:
        """Every template with its key."""
        found = [(f"extra_channels {name}", template) for name, template in (self.extra_channels or {}).items()]
        return found + [(key, template) for key in ("mask", "test_mask") for template in self.places(key)]

    def places(self, key: str) -> tuple[str, ...]:
        """Templates of ``mask`` or ``test_mask``: where to look, one after the other; none where it is not said."""
        value: str | tuple[str, ...] = getattr(self, key)
        return (value,) if isinstance(value, str) else value


@dataclass(frozen=True, config=CONFIG)
class CardSplits:
    """Who is in which split: lists of patients in files, or fractions that are drawn once."""

    seed: Whole | None = None
    """a whole number; with it val and test are fractions of the patients"""
    train: Name | None = None
    """a file beside the card with a patient a line"""
    val: Name | Fraction | None = None
    """a file beside the card with a patient a line; with seed a fraction from 0 to 1"""
    test: Name | Fraction | None = None
    """a file beside the card with a patient a line; with seed a fraction from 0 to 1"""

    @model_validator(mode="after")
    def _check(self) -> CardSplits:
        if self.seed is None and self.train is None:
            raise InputError("splits needs train: a file, or seed, val and test fractions.")
        for name in SPLITS:
            value = getattr(self, name)
            if self.seed is None and not isinstance(value, str | None):
                raise InputError(f"the split {name} is a file with a patient a line, found {value}.")
            if self.seed is not None and isinstance(value, str):
                raise InputError(f"the split {name} is a fraction from 0 to 1, as there is a seed; found {value!r}.")
        return self

    @property
    def files(self) -> dict[str, str]:
        """Lists of patients by split, where there is no seed."""
        named = {name: getattr(self, name) for name in SPLITS}
        return {name: value for name, value in named.items() if isinstance(value, str)}


@dataclass(frozen=True, config=CONFIG)
class Card:
    """One data set. See ``docs/datasets.md``."""

    name: Name
    """a name, also that of the cache"""
    title: Name
    """a line that says what the data are"""
    modality: Name
    """such as CT, MR or aerial"""
    channels: Annotated[tuple[Name, ...], MinLen(1)]
    """a list of names of the channels in the image files, in their order"""
    classes: Annotated[tuple[CardClass, ...], MinLen(2)]
    """a list of at least two classes, each {name: ..., colour: [red, green, blue]}"""
    normalisation: CardNormalisation
    """keys such as mean, std and window, or per_image: true"""
    layout: Layout
    """format, tree, and for format files patterns"""
    splits: CardSplits
    """train: a file, or seed, val and test fractions"""
    source: Name
    """where to get the data"""
    licence: Name
    """under which terms"""
    folder: Path
    """where the card lies"""
    ignore_index: Whole = 255
    """the value in the masks that is not learned and not scored"""
    background: Name | None = "background"
    """the class left out of mean scores, null where every class counts"""
    plane: Literal["axial", "coronal", "sagittal", "acquired"] = "axial"
    """axial, coronal, sagittal or acquired"""
    array_units: dict[Name, Number] | None = None
    """{scale: ..., offset: ...}: stored value x scale + offset = units, for h5 and npz files"""
    spacing_mm: tuple[Step, Step, Step] | None = None
    """[slices, rows, columns] in mm, each a number above zero, median, or null where it stays"""
    largest_class: Name | None = None
    """the class that must have the most voxels"""
    smallest_class: Name | None = None
    """the class expected to have the fewest voxels"""
    use: Annotated[tuple[Name, ...], MinLen(1)] | None = None
    """a list of names of the channels that the network sees, in its order"""

    @model_validator(mode="after")
    def _check(self) -> Card:
        names, values = self.class_names, [value for k in range(len(self.classes)) for value in self._values(k)]
        if len(names) > 255:
            raise InputError(f"at most 255 classes fit into a mask, found {len(names)}.")
        if len(set(names)) < len(names):
            raise InputError(f"class names repeat: {', '.join(names)}.")
        if len(set(values)) < len(values):
            raise InputError(f"two classes have one id; the ids are {values}.")
        if self.ignore_index in values:
            raise InputError(f"ignore_index {self.ignore_index} is also the id of a class; 255 is usual.")
        for key in ("largest_class", "smallest_class"):
            if getattr(self, key) is not None:
                lookup(dict.fromkeys(names), getattr(self, key), key)
        for key in self.array_units or {}:
            lookup({"scale": 1, "offset": 0}, key, "key of array_units")
        if self.layout.mask_threshold is not None and len(names) != 2:
            raise InputError(f"mask_threshold is for two classes, found {len(names)}.")
        if repeated := sorted(set(self.layout.extra_channels or {}) & set(self.channels)):
            raise InputError(f"extra_channels repeats {repeated}.")
        if self.normalisation.foreground and len(self.channels) > 1:
            raise InputError("foreground is for images of one channel.")
        if self.use is not None:
            self._check_used(self.use)
        return self

    def _check_used(self, names: Sequence[str]) -> None:
        for name in names:
            lookup(dict.fromkeys([*self.channels, *(self.layout.extra_channels or {})]), name, "channel")
        if not names or len(set(names)) < len(names):
            raise InputError(f"channels are one or more names, each once, got {', '.join(names)}.")
        for key in ("mean", "std"):
            value = getattr(self.normalisation, key)
            if isinstance(value, tuple) and len(value) != len(names):
                raise InputError(
                    f"{key} of the normalisation is for {len(value)} channels, not for {', '.join(names)}. "
                    "Say measured: true in its place."
                )

    @property
    def seen(self) -> tuple[str, ...]:
        """Channels that the network sees, in their order: all bands of the image files unless ``use`` says others."""
        return self.use or self.channels

    @property
    def further(self) -> dict[str, str]:
        """Channels that lie in files of their own and are used: where, as a template."""
        return {name: place for name, place in (self.layout.extra_channels or {}).items() if name in self.seen}

    @property
    def bands(self) -> tuple[str, ...]:
        """What the files of one image hold, one after the other."""
        return (*self.channels, *self.further)

    def using(self, names: Sequence[str]) -> Card:
        """The card of a network that sees these channels, in this order.

        Raises:
            InputError: One that the card does not know, or one twice.
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
        """The values in the masks that stand for a class."""
        given: Any = self.classes[k].id
        return given if isinstance(given, tuple) else (k if given is None else given,)

    @property
    def ids(self) -> dict[int, int]:
        """Index of the class that each value in the masks stands for: its position, unless the card gives ids."""
        return {value: k for k in range(len(self.classes)) for value in self._values(k)}

    @property
    def class_infos(self) -> tuple[ClassInfo, ...]:
        """Classes with the first of the values that each has in the masks."""
        return tuple(ClassInfo(entry.name, entry.colour, self._values(k)[0]) for k, entry in enumerate(self.classes))

    @property
    def background_index(self) -> int | None:
        """Index of the class that is none, if there is one."""
        return self.class_names.index(self.background) if self.background in self.class_names else None

"""Sections of a data set card: classes, normalisation, layout of the files; splits are in ``card_splits.py``.

The docstring of each field serves as the expected value in error messages and as the description in the JSON schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from string import Formatter
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import AfterValidator, AllowInfNan, ConfigDict, Strict, model_validator
from pydantic.dataclasses import dataclass

from mlla_seg.data.card_vectors import PolygonKeys, Value
from mlla_seg.data.dataspec import Normalisation
from mlla_seg.data.formats.names import require_folder_name, require_name
from mlla_seg.data.schemes import Scheme
from mlla_seg.errors import InputError, lookup

SPLITS = ("train", "val", "test")
MASKS = ("mask", "test_mask", "area")
"""Keys of a layout with templates of files that belong to an image."""
MEDIAN: Literal["median"] = "median"
"""Spacing value that stands for the median over all cases."""

Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Name = Annotated[str, Strict(), AfterValidator(require_name)]
FolderName = Annotated[str, Strict(), AfterValidator(require_folder_name)]
Whole = Annotated[int, Strict(), Ge(-(2**63)), Lt(2**63)]
Number = Annotated[int, Strict(), Ge(-(2**63)), Lt(2**63)] | Annotated[float, Strict(), AllowInfNan(False)]
Level = Annotated[int, Strict(), Ge(0), Le(255)]
Colour = tuple[Level, Level, Level]
Id = Annotated[int, Strict(), Ge(0), Lt(2**16)]
Ids = Id | tuple[Id, ...]
Fraction = Annotated[float, Strict(), Ge(0), Lt(1)]
Step = Annotated[float, Strict(), Gt(0), AllowInfNan(False)] | Literal["median"] | None
CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, config=CONFIG)
class CardCode:
    """A concept of a published terminology, for DICOM segmentations."""

    value: Annotated[str, Strict(), MinLen(1), MaxLen(16)]
    """the code in quotes, at most 16 characters"""
    meaning: Annotated[str, Strict(), MinLen(1), MaxLen(64)]
    """what the code stands for, at most 64 characters"""
    scheme: Annotated[str, Strict(), MinLen(1), MaxLen(16)] = "SCT"
    """the designator of the terminology in DICOM, by default SCT for SNOMED CT"""


@dataclass(frozen=True, config=CONFIG)
class CardClass:
    """A class of a card."""

    name: Name
    """a name, quoted if YAML would read it as another type (such as no)"""
    colour: Colour
    """[red, green, blue], each from 0 to 255"""
    id: Id | Annotated[tuple[Id, ...], MinLen(1)] | None = None
    """its value in the masks or a list of values, from 0 to 65535; by default its position in classes"""
    code: CardCode | None = None
    """{value: "...", meaning: ...} of a concept of SNOMED CT, or of the terminology named by scheme"""
    values: Value | tuple[Value, ...] | None = None
    """values of the attribute of its polygons, where labels are polygons; by default its name, or its id if numbers"""


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
    schemes: dict[Name, Scheme] | None = None
    """a scheme of nnU-Net for each channel: ct, zscore, nonorm, rescale_to_0_1 or rgb_to_0_1"""

    @model_validator(mode="after")
    def _check(self) -> CardNormalisation:
        if self.window is not None and self.window[0] >= self.window[1]:
            raise InputError(f"window of normalisation must be [low, high] with low < high, found {list(self.window)}.")
        said = [entry.name for entry in fields(self) if getattr(self, entry.name) != entry.default]
        for key in ("foreground", "measured", "per_case", "schemes"):
            if getattr(self, key) and len(said) > 1:
                raise InputError(f"{key} of normalisation excludes all other keys, found {' and '.join(said)}.")
        return self

    def given(self) -> Normalisation:
        """Return the statistics given in the card."""
        return Normalisation(self.mean, self.std, self.window, self.per_image, self.per_case)


@dataclass(frozen=True, config=CONFIG)
class Layout(PolygonKeys):
    """Layout of a data set's files below its root."""

    format: Literal["files", "nnunet", "list"]
    """files (found by patterns), nnunet (nnU-Net raw folders and Decathlon tasks) or list (named in a table)"""
    tree: Text
    """the folder structure, shown if the data are missing"""
    patterns: tuple[Text, ...] = ()
    """a list of regular expressions for paths below the root, each with a group (?P<case>...)"""
    mask: Text | tuple[Text, ...] = ()
    """where to find the mask below the root: a template of the pattern's groups, or a list of templates to try"""
    test_mask: Text | tuple[Text, ...] = ()
    """where to find a separate mask for testing, in the same form as mask"""
    extra_channels: dict[Name, Text] | None = None
    """names of additional channels, each with a template of the pattern's groups for its file"""
    split_folders: dict[Name, Literal["train", "val", "test"]] | None = None
    """names of folders, each with the split it stands for: train, val or test"""
    patient: Text | None = None
    """a regular expression that finds the patient in the name of a case; its first group, if it has one"""
    coloured_masks: Flag = False
    """true if masks store the colours of the classes"""
    ignored_colours: tuple[Colour, ...] = ()
    """a list of colours [red, green, blue] to exclude from training and scores"""
    mask_threshold: Number | None = None
    """a number; pixels of a grey mask above it belong to the second of two classes"""
    mask_key: Name | None = None
    """the name of the array of labels in h5 and npz files; by default label, mask, gt or seg"""

    @model_validator(mode="after")
    def _check(self) -> Layout:
        if self.format == "files" and not self.patterns:
            raise InputError("layout with format files needs patterns: one regular expression per kind of file.")
        _compiled(self.patient or "", "patient")
        for pattern in self.patterns:
            groups = _compiled(pattern, "the pattern").groupindex
            if "case" not in groups:
                raise InputError(f"the pattern {pattern!r} needs a group (?P<case>...), which names the case.")
        for key, template in self._templates():
            self.require_groups(key, template)
        return self

    def require_groups(self, key: str, template: str) -> None:
        """Check that a template uses no other groups than the patterns have.

        Raises:
            InputError: It does.
        """
        used = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        for pattern in self.patterns:
            if unknown := sorted(used - set(re.compile(pattern).groupindex)):
                raise InputError(f"{key} uses {unknown}, which the pattern {pattern!r} lacks.")

    def _templates(self) -> list[tuple[str, str]]:
        """Return every template with its key."""
        found = [(f"extra_channels {name}", template) for name, template in (self.extra_channels or {}).items()]
        return found + [(key, template) for key in MASKS for template in self.places(key)]

    def places(self, key: str) -> tuple[str, ...]:
        """Return the templates of a key of ``MASKS`` in the order to try; empty if not given."""
        value: str | tuple[str, ...] = getattr(self, key)
        return (value,) if isinstance(value, str) else value


@dataclass(frozen=True, config=CONFIG)
class CardScribbles:
    """Strokes that label a part of the pixels, from which ``--data.scribbles true`` trains in place of the masks."""

    unlabelled: Id
    """the value of all pixels without a stroke"""
    key: Name | None = None
    """the name of the array of scribbles in h5 and npz files"""
    mask: Text | tuple[Text, ...] = ()
    """where to find the file of scribbles below the root, in the same form as mask of layout"""
    ids: dict[Name, Id] | None = None
    """names of classes, each with its value in the scribbles where that is another than in the masks"""

    @model_validator(mode="after")
    def _check(self) -> CardScribbles:
        if self.key is None and not self.mask:
            raise InputError(
                "scribbles needs key, the array in h5 and npz files, or mask, the template of their files."
            )
        return self

    @property
    def places(self) -> tuple[str, ...]:
        """The templates of their files in the order to try; empty if they are in the files of the masks."""
        return (self.mask,) if isinstance(self.mask, str) else self.mask

    def values_of(self, classes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the values of classes in the scribbles by their names.

        Args:
            classes: Values in the masks by the name of the class.

        Raises:
            InputError: A name is unknown, or a value stands for two things.
        """
        for name in self.ids or {}:
            lookup(dict.fromkeys(classes), name, "class in ids of scribbles:")
        values: dict[str, tuple[int, ...]] = {**classes, **{name: (value,) for name, value in (self.ids or {}).items()}}
        all_values = [value for several in values.values() for value in several]
        if len({*all_values, self.unlabelled}) <= len(all_values):
            raise InputError(
                f"scribbles has {self.unlabelled} for unlabelled pixels and {all_values} for the classes "
                f"{', '.join(values)}: each needs a value of its own; give others in its ids."
            )
        return values


def _compiled(expression: str, what: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise InputError(f"{what} {expression!r} is not a valid regular expression ({error}).") from error

"""What a trained network must remember of its data, typed. Plain dicts of it are in files alone.

Checkpoints, folders for the Hub and exported files hold :meth:`DataSpec.to_dict`. Nothing here needs torch: the runtime
of exported networks works without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mlla_seg.data.formats.classes import ClassInfo, class_colour
from mlla_seg.data.slices import View
from mlla_seg.errors import InputError, lookup

OTHER_KEYS = ("spec_version", "window", "ignore_index")
"""Of plain dicts: the version, and two of version 1, of which the second was never used."""
VERSION = 2
"""Of the plain dict. Version 1, of mlla_seg 0.1, has no number and names the patch size ``window``."""


@dataclass(frozen=True)
class Normalisation:
    """How images in raw units are standardised.

    Args:
        mean: After clipping; one number, or one per channel.
        std: Standard deviation after clipping, likewise.
        window: Intensity window ``(low, high)`` to which values are clipped first, in raw units such as HU.
        per_image: Standardise each channel of each image by its own mean and standard deviation instead.
        per_case: Standardise each channel of a whole volume by its own mean and standard deviation instead.
    """

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    window: tuple[float, float] | None = None
    per_image: bool = False
    per_case: bool = False

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """What is done, whatever the numbers, which travel with a network's weights."""
        return self.window is not None, self.per_image, self.per_case

    def for_network(self, context: int = 0) -> dict[str, Any]:
        """Arguments of the network's own normalisation, for slices with ``context`` neighbours on each side."""
        repeated = {
            key: value * (2 * context + 1) if isinstance(value, tuple) else value
            for key, value in (("mean", self.mean), ("std", self.std))
        }
        # Whole cases are standardised before slices are cut.
        return {} if self.per_case else {**repeated, "window": self.window, "per_image": self.per_image}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Normalisation:
        """Reads what :meth:`to_dict` wrote."""
        return cls(**{key: _tuple(value) for key, value in content.items()})

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, in plain types."""
        defaults = Normalisation()
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {key: _plain(value) for key, value in values.items() if value != getattr(defaults, key)}


@dataclass(frozen=True)
class DataSpec:
    """Classes, channels, normalisation and geometry of the data that a network was trained on.

    Args:
        channels: Names of the channels that the network sees.
        classes: In the order of the network's outputs.
        name: Of the data set.
        modality: Such as CT.
        bands: Channels that the files hold, among which are those that the network sees; by default these.
        background: Index of the class that is none, if any.
        normalisation: Of raw units.
        plane: Of the slices of volumes, see :data:`mlla_seg.data.formats.planes.PLANES`.
        array_units: Factor and offset that bring arrays without units to raw units.
        spacing_mm: See :class:`~mlla_seg.data.slices.View`, as the three that follow.
        resize: Size or factor.
        patch_size: Height and width of the training samples.
        context: Neighbouring slices on each side.
        mirrored: Whether the training samples were mirrored along both axes.
    """

    channels: tuple[str, ...]
    classes: tuple[ClassInfo, ...]
    name: str = "unnamed"
    modality: str = ""
    bands: tuple[str, ...] = ()
    background: int | None = None
    normalisation: Normalisation = field(default_factory=Normalisation)
    plane: str = "axial"
    array_units: Mapping[str, float] | None = None
    spacing_mm: tuple[float | None, ...] | None = None
    resize: tuple[int, int] | float | None = None
    patch_size: tuple[int, int] | None = None
    context: int = 0
    mirrored: bool = False

    def __post_init__(self) -> None:
        if not self.bands:
            object.__setattr__(self, "bands", self.channels)

    @property
    def class_names(self) -> list[str]:
        return [entry.name for entry in self.classes]

    @property
    def view(self) -> View:
        """How slices are brought to the network."""
        per_case = self.normalisation.per_case
        return View(self.spacing_mm, self.resize, self.patch_size, self.context, per_case)

    @property
    def in_channels(self) -> int:
        """Channels of the images that the network takes, with those of neighbouring slices."""
        return len(self.channels) * (2 * self.context + 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for files: what :meth:`from_dict` reads."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["classes"] = [{"name": c.name, "colour": list(c.colour), "id": c.id} for c in self.classes]
        values["normalisation"] = self.normalisation.to_dict()
        return {"spec_version": VERSION, **{key: _plain(value) for key, value in values.items()}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = "spec") -> DataSpec:
        """Reads what :meth:`to_dict` wrote, here or in version 0.1, or what a user wrote by hand.

        Args:
            content: ``channels`` and ``classes``; all else has a default. A class is a name, or a mapping with its name
                and, if wanted, its ``colour`` and ``id``.
            where: The file, for messages.

        Raises:
            InputError: Something is missing, or written by a newer version.
        """
        if content.get("spec_version", 1) > VERSION:
            raise InputError(
                f"{where}: was written by a newer version of mlla_seg (spec_version {content['spec_version']}, this "
                f"one reads up to {VERSION}). Install a newer mlla_seg."
            )
        for key in content:
            lookup(dict.fromkeys(KEYS), key, f"key in {where}:")
        missing = [key for key in ("channels", "classes") if not content.get(key)]
        if missing:
            raise InputError(
                f"{where}: lacks {' and '.join(missing)}. Say at least the names of channels and classes, such as "
                '{"channels": ["CT"], "classes": ["background", "liver"]}.'
            )
        classes = tuple(_class_info(entry, k, where) for k, entry in enumerate(content["classes"]))
        values = {**content, "patch_size": content.get("patch_size", content.get("window"))}
        values["background"] = content["background"] if "background" in content else _background(classes)
        values |= {"classes": classes, "normalisation": Normalisation.from_dict(content.get("normalisation", {}))}
        return cls(**{entry.name: _tuple(values[entry.name]) for entry in fields(cls) if entry.name in values})

    @classmethod
    def of(cls, spec: DataSpec | Mapping[str, Any]) -> DataSpec:
        """A spec, or the plain dict of one, as a spec."""
        return spec if isinstance(spec, DataSpec) else cls.from_dict(spec)


KEYS = (*(entry.name for entry in fields(DataSpec)), *OTHER_KEYS)
"""Of plain dicts of a spec, this version's and the last one's."""


def _class_info(entry: Any, index: int, where: str) -> ClassInfo:
    given: dict[str, Any] = {"name": entry} if isinstance(entry, str) else dict(entry)
    if not isinstance(given.get("name"), str):
        raise InputError(f"{where}: class {index} has no name, found {entry!r}.")
    red, green, blue = given.get("colour") or class_colour(index)
    return ClassInfo(given["name"], (red, green, blue), given.get("id", index))


def _background(classes: Sequence[ClassInfo]) -> int | None:
    return 0 if classes[0].name == "background" else None


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value

"""Typed description of what a trained network must remember of its data; only files store it as a plain dict.

Checkpoints, Hub folders and exported files contain :meth:`DataSpec.to_dict`. This module does not need torch, so that
the runtime of exported networks works without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mlla_seg.data.formats.bands import Wanted
from mlla_seg.data.formats.classes import ClassInfo, Code, class_colour
from mlla_seg.data.formats.gaps import Gaps
from mlla_seg.data.postprocessing import Step, read_steps
from mlla_seg.data.regions import Region, plain_regions, read_regions
from mlla_seg.data.slices import AXES, RESCALE, View
from mlla_seg.data.spec_rules import VERSION, require_normalisation, require_same_shape, require_valid
from mlla_seg.errors import InputError

Window = tuple[float, float]
OWN = "own mean and standard deviation of each"


@dataclass(frozen=True)
class Normalisation:
    """Standardisation of images in raw units.

    Args:
        mean: Mean after clipping; one number, or one per channel.
        std: Standard deviation after clipping; one number, or one per channel.
        window: Intensity window ``(low, high)`` to which values are clipped first, in raw units such as HU; or one per
            channel, None for a channel that is not clipped.
        per_image: Standardise each channel of each image by its own mean and standard deviation instead.
        per_case: Standardise each channel of a whole volume by its own mean and standard deviation instead; or the
            scheme of each channel, see :func:`mlla_seg.data.slices.case_moments`.
    """

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    window: Window | tuple[Window | None, ...] | None = None
    per_image: bool = False
    per_case: bool | tuple[str | None, ...] = False

    @property
    def windows(self) -> tuple[Window | None, ...]:
        """The windows of the channels, or one that stands for all channels."""
        pairs: Any = self.window
        return (pairs,) if pairs is None or isinstance(pairs[0], (int, float)) else pairs

    @property
    def kind(self) -> tuple[Any, ...]:
        """Which operations are applied, whatever their numbers, which are stored with a network's weights."""
        return *(window is not None for window in self.windows), self.per_image, self.per_case

    def for_network(self, context: int = 0) -> dict[str, Any]:
        """Return the arguments of the network's normalisation, for slices with ``context`` neighbours on each side."""
        if self.per_case is True:  # whole cases are standardised before slices are cut
            return {}
        copies = 2 * context + 1
        mean, std = (value * copies if isinstance(value, tuple) else value for value in (self.mean, self.std))
        window = self.windows * copies if len(self.windows) > 1 else self.window
        return {"mean": mean, "std": std, "window": window, "per_image": self.per_image}

    def in_words(self, channels: Sequence[str]) -> str:
        """Describe the normalisation of each channel."""

        def one(k: int) -> str:
            case = self.per_case if isinstance(self.per_case, bool) else self.per_case[k]
            window = self.windows[k if len(self.windows) > 1 else 0]
            mean, std = (value[k] if isinstance(value, tuple) else value for value in (self.mean, self.std))
            clipped = f"clipped to {window[0]:g} .. {window[1]:g}, " if window else ""
            if case:
                return "own minimum and maximum of each case" if case == RESCALE else f"{OWN} case"
            if self.per_image:
                return f"{clipped}{OWN} image"
            known = f"{clipped}mean {mean:g}, standard deviation {std:g}"
            return "unchanged" if (window, mean, std) == (None, 0, 1) else known

        words = [one(k) for k in range(len(channels))]
        if len(set(words)) == 1:
            return words[0]
        return "; ".join(f"{name}: {word}" for name, word in zip(channels, words, strict=True))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = "spec") -> Normalisation:
        """Read the output of :meth:`to_dict`."""
        require_normalisation(content, where)
        return cls(**{key: _tuple(value) for key, value in content.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return the values that differ from the defaults, in plain types."""
        defaults = Normalisation()
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {key: _plain(value) for key, value in values.items() if value != getattr(defaults, key)}


@dataclass(frozen=True)
class DataSpec:
    """Classes, channels, normalisation and geometry of the data that a network was trained on.

    Args:
        channels: Names of the channels that the network sees.
        classes: Classes, in the order of the network's outputs unless it has regions.
        name: Name of the data set.
        modality: Modality, such as CT.
        bands: Channels in the files, including those that the network sees; by default ``channels``.
        background: Index of the background class, if any.
        normalisation: Standardisation of raw units.
        plane: Plane of the slices of volumes, see :data:`mlla_seg.data.formats.planes.PLANES`.
        array_units: Factor and offset that convert arrays without units to raw units.
        spacing_mm: See :class:`~mlla_seg.data.slices.View`, also for the next three.
        resize: Size or factor.
        patch_size: Height and width of the training samples; slices, height and width for networks of three axes.
        context: Neighbouring slices on each side.
        mirrored: Axes along which the training samples were mirrored, in the order of
            :data:`~mlla_seg.data.slices.AXES`.
        nodata: Value of pixels without data in rasters and photos that tag none themselves.
        nodata_rule: ``any`` or ``all`` bands must have it, see :mod:`mlla_seg.data.formats.gaps`.
        grid: Channel whose pixel grid is used where files of a scene differ in resolution; by default the finest.
        regions: Regions, in the order of the network's outputs, if it segments them instead of classes; see
            :mod:`mlla_seg.data.regions`.
        postprocessing: Steps that the masks of whole cases go through, see :mod:`mlla_seg.data.postprocessing`.
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
    patch_size: tuple[int, ...] | None = None
    context: int = 0
    mirrored: tuple[str, ...] = ()
    nodata: float | None = None
    nodata_rule: str | None = None
    grid: str | None = None
    regions: tuple[Region, ...] = ()
    postprocessing: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if not self.bands:
            object.__setattr__(self, "bands", self.channels)

    @property
    def class_names(self) -> list[str]:
        return [entry.name for entry in self.classes]

    @property
    def output_names(self) -> list[str]:
        """Names of the network's outputs: its regions, or its classes."""
        return [region.name for region in self.regions] or self.class_names

    @property
    def writes(self) -> list[int] | None:
        """Index of the class that each region writes, in order; None for a network of classes."""
        return [region.writes for region in self.regions] or None

    @property
    def view(self) -> View:
        """How the network sees cases."""
        per_case = self.normalisation.per_case
        return View(self.spacing_mm, self.resize, self.patch_size, self.context, per_case)

    @property
    def wanted(self) -> Wanted:
        """What the network expects of the files of an image."""
        return Wanted(self.channels, self.bands, Gaps(self.nodata, self.nodata_rule), self.grid)

    @property
    def axes(self) -> int:
        """Number of axes of the network's input: 2 for slices, 3 for volumes."""
        return self.view.axes

    @property
    def in_channels(self) -> int:
        """Input channels of the network, including those of neighbouring slices."""
        return len(self.channels) * (2 * self.context + 1)

    def require_network(self, network: tuple[int | None, int | None], where: object) -> None:
        """Check the spec against the input channels and outputs of a network; None where they are not known.

        Raises:
            InputError: The numbers differ.
        """
        require_same_shape(self.output_names, self.in_channels, network, where)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for files, as read by :meth:`from_dict`."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["classes"] = [
            {"name": c.name, "colour": list(c.colour), "id": c.id, **({"code": asdict(c.code)} if c.code else {})}
            for c in self.classes
        ]
        values["normalisation"] = self.normalisation.to_dict()
        values["regions"] = plain_regions(self.regions, [entry.id for entry in self.classes])
        values["postprocessing"] = [step.to_dict(self.class_names) for step in self.postprocessing]
        return {"spec_version": VERSION, **{key: _plain(value) for key, value in values.items()}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = "spec") -> DataSpec:
        """Read the output of :meth:`to_dict`, of this version or 0.1, or a spec written by hand.

        Args:
            content: ``channels`` and ``classes``; everything else has a default. A class is a name, or a mapping with
                its name and optionally its ``colour``, ``id`` and ``code``. For ``regions`` see
                :func:`mlla_seg.data.regions.read_regions`.
            where: File name for messages.

        Raises:
            InputError: The spec breaks a rule of :mod:`mlla_seg.data.spec_rules`, or of regions.
        """
        require_valid(content, where)
        classes = tuple(_class_info(entry, k) for k, entry in enumerate(content["classes"]))
        values = {**content, "patch_size": content.get("patch_size", content.get("window"))}
        values["background"] = content["background"] if "background" in content else _background(classes)
        values |= {
            "classes": classes,
            "regions": _regions(content, classes, values["background"], where),
            "normalisation": Normalisation.from_dict(content.get("normalisation") or {}, where),
            "mirrored": _mirrored(content.get("mirrored", False)),
            "postprocessing": read_steps(
                content.get("postprocessing"), [entry.name for entry in classes], values["background"], where
            ),
        }
        return cls(**{entry.name: _tuple(values[entry.name]) for entry in fields(cls) if entry.name in values})

    @classmethod
    def of(cls, spec: DataSpec | Mapping[str, Any]) -> DataSpec:
        """Return a spec, given as such or as its plain dict."""
        return spec if isinstance(spec, DataSpec) else cls.from_dict(spec)


def _class_info(entry: Any, index: int) -> ClassInfo:
    given: Mapping[str, Any] = {"name": entry} if isinstance(entry, str) else entry
    red, green, blue = given.get("colour") or class_colour(index)
    code = given.get("code")
    known = Code(**{key: str(value) for key, value in code.items()}) if code is not None else None
    return ClassInfo(given["name"], (red, green, blue), given.get("id", index), known)


def _regions(
    content: Mapping[str, Any], classes: Sequence[ClassInfo], background: Any, where: str
) -> tuple[Region, ...]:
    ids = {entry.id: k for k, entry in enumerate(classes)}
    try:
        return read_regions(content.get("regions") or (), ids, [entry.name for entry in classes], background)
    except InputError as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from error  # names may hold line breaks


def _background(classes: Sequence[ClassInfo]) -> int | None:
    return 0 if classes[0].name == "background" else None


def _mirrored(value: bool | Sequence[str]) -> tuple[str, ...]:
    """Return the axes in order; version 0.1 wrote whether there were both, rows and columns."""
    if isinstance(value, bool):
        return AXES[1:] if value else ()
    return tuple(axis for axis in AXES if axis in value)


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return dict(value) if isinstance(value, Mapping) else value

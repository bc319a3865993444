"""Which bands of an image are the channels of a network: by their names where files have them, else by position.

Names of bands are their descriptions, the colours of a raster that stores them in another order than red, green, blue
(which is what programs write for any three bands), and the parts of file names such as ``B04`` where every band has a
file of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlla_seg.data.formats.gaps import Gaps
from mlla_seg.errors import InputError

SYNONYMS = {"nir": "nearinfrared", "infrared": "nearinfrared", "grey": "gray"}
COLOURS = ["red", "green", "blue"]
CODE = re.compile(r"b\d\d")
SHOWN = ({"red", "b04"}, {"green", "b03"}, {"blue", "b02"})
"""Names of the bands that are drawn as red, green and blue; the numbers are those of Sentinel-2 and Landsat 8."""


@dataclass(frozen=True)
class Wanted:
    """What a network expects of an image."""

    channels: tuple[str, ...]
    """Channels that it sees, in order."""
    bands: tuple[str, ...] = ()
    """Channels in the files of the training; by default those that it sees."""
    gaps: Gaps = field(default_factory=Gaps)
    """How a value marks pixels without data."""
    grid: str | None = None
    """Band whose pixels are used for bands of different resolution; by default the finest."""
    owner: str = "this network"
    """Who expects them, for messages."""
    complete: bool = False
    """Whether files must have all bands, as in training, and not only those that the network sees."""

    @property
    def listed(self) -> tuple[str, ...]:
        """All bands of the files."""
        return self.bands or self.channels

    @property
    def counts(self) -> tuple[int, ...]:
        """Possible numbers of bands of an image."""
        return (len(self.listed),) if self.complete else (len(self.channels), len(self.listed))


@dataclass(frozen=True)
class Band:
    """A band of an image."""

    label: str
    """How messages name it."""
    names: frozenset[str] = frozenset()
    """Its names, simplified; empty if nothing names it."""
    described: bool = False
    """Whether its file describes it."""


@dataclass(frozen=True)
class Order:
    """Positions of the channels among the bands of an image."""

    channels: tuple[str, ...]
    positions: tuple[int, ...]
    bands: tuple[str, ...]
    """Labels of the chosen bands."""
    by_name: bool

    def changes_nothing(self, count: int) -> bool:
        """Return whether the channels are all bands, in their order."""
        return self.positions == tuple(range(count))

    @property
    def described(self) -> str:
        """Which band is used as which channel, in words."""
        pairs = zip(self.channels, self.bands, strict=True)
        told = ", ".join(name if simple(name) == simple(band) else f"{name} = {band}" for name, band in pairs)
        numbers = ", ".join(str(k + 1) for k in self.positions)
        moved = f" (numbers {numbers})" if list(self.positions) != sorted(self.positions) else ""
        return f"bands by {'name' if self.by_name else 'position'}: {told}{moved}"


def simple(name: str) -> str:
    """Return a name without case, spaces and signs; bands of one digit with two, such as b04 for B4."""
    plain = re.sub(r"[\W_]+", "", name.lower())
    plain = re.sub(r"^b(\d[a-z]?)$", r"b0\1", plain)
    return SYNONYMS.get(plain, plain)


def shown_channels(names: Sequence[str], context: int = 0) -> list[int]:
    """Return which channels of an image are drawn as red, green and blue: by their names, or else the first three.

    Fewer than three channels are drawn in grey, by the first one.

    Args:
        names: Names of the channels.
        context: Neighbouring slices on each side, whose channels are stacked around those of the slice that is drawn.
    """
    codes = [{part for part in name_parts(name) if CODE.fullmatch(part)} for name in names]  # of B04_10m
    known = [_described(name) | {simple(name)} | own for name, own in zip(names, codes, strict=True)]
    found = [[k for k, own in enumerate(known) if own & colour] for colour in SHOWN]
    told = [places[0] for places in found if len(places) == 1]
    shown = told if len(told) == 3 else [0, 1, 2] if len(names) > 2 else [0, 0, 0]
    return [context * len(names) + place for place in shown]


def _described(description: str) -> frozenset[str]:
    """Return the names in a description such as ``B04 - red`` or ``red (B04)``, simplified."""
    return frozenset(map(simple, re.split(r"[,;:()/|]| - ", description))) - {""}


def bands_of(files: Sequence[str], datasets: Sequence[Any]) -> list[Band]:
    """Return the bands of open rasters, in the order of the files.

    Args:
        files: Names of the files.
        datasets: The open files.
    """
    found = []
    for name, dataset in zip(files, datasets, strict=True):
        colours = [interpretation.name for interpretation in dataset.colorinterp]
        told = colours[:3] != COLOURS and set(COLOURS) <= set(colours)
        for k, description in enumerate(dataset.descriptions):
            names = _described(description or "")
            if not names and told and colours[k] in COLOURS:
                names = frozenset([colours[k]])
            if not names and dataset.count == 1:
                names = name_parts(name)
            place = f"band {k + 1}" if len(files) == 1 else name if dataset.count == 1 else f"band {k + 1} of {name}"
            found.append(Band(description or place, names, bool(description)))
    return found


def name_parts(name: str) -> frozenset[str]:
    """Return the parts of a file name, and neighbouring ones together, such as red, edge and rededge."""
    words = re.split(r"[^A-Za-z0-9]+", name.rsplit(".", 1)[0])
    runs = ("".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(i + 3, len(words)) + 1))
    return frozenset(map(simple, runs)) - {""}


def band_order(bands: Sequence[Band], wanted: Wanted, where: str) -> Order:
    """Return the positions of the channels that a network sees.

    Args:
        bands: Bands of the image, without an alpha band.
        wanted: What the network expects.
        where: Name of the image, for messages.

    Raises:
        InputError: The number of bands does not fit, or their names contradict their positions.
    """
    channels = wanted.channels
    known = {simple(name) for name in (*channels, *wanted.listed)}
    names = [_longest(band.names & known) for band in bands]
    shared = frozenset.intersection(*names) if len(names) > 1 else frozenset()
    names = [own - shared for own in names]  # what all have is the name of the scene
    places = [[k for k, own in enumerate(names) if simple(name) in own] for name in channels]
    if all(len(found) == 1 for found in places) and len({found[0] for found in places}) == len(channels):
        return _order(channels, [found[0] for found in places], bands, True)
    positions = _by_position(len(bands), wanted)
    if positions is None:
        expected = wanted.listed if wanted.complete else channels
        files = f" (files with {len(wanted.listed)}: {', '.join(wanted.listed)})"
        raise InputError(
            f"{where}: has {len(bands)} bands; {wanted.owner} expects {len(expected)} ({', '.join(expected)})"
            f"{files if list(expected) != list(wanted.listed) else ''}."
        )
    for position, name in zip(positions, channels, strict=True):
        other = names[position] or (bands[position].described and any(places))
        if other and simple(name) not in names[position]:
            raise InputError(
                f"{where}: its bands are {', '.join(band.label for band in bands)}, but {wanted.owner} expects "
                f"{', '.join(channels if len(bands) == len(channels) else wanted.listed)}, so {bands[position].label} "
                f"would be taken for {name}. Name all bands (by descriptions or file names), or none."
            )
    return _order(channels, positions, bands, False)


def _order(channels: tuple[str, ...], positions: Sequence[int], bands: Sequence[Band], by_name: bool) -> Order:
    return Order(channels, tuple(positions), tuple(bands[k].label for k in positions), by_name)


def _longest(names: frozenset[str]) -> frozenset[str]:
    """Return those names that are not part of another, such as rededge of red and rededge."""
    return frozenset(name for name in names if not any(name != other and name in other for other in names))


def _by_position(count: int, wanted: Wanted) -> list[int] | None:
    channels, listed = [*wanted.channels], [*wanted.listed]
    if count == len(channels) and not wanted.complete and (len(listed) != len(channels) or listed == channels):
        return list(range(count))
    return [listed.index(name) for name in channels] if count == len(listed) else None


def colour_order(bands: Sequence[Band]) -> Order | None:
    """Return the order that puts red, green and blue first, if the names of bands tell another one."""
    places = [k for name in COLOURS for k, band in enumerate(bands) if name in band.names]
    if len(places) != 3 or len(set(places)) != 3 or places == [0, 1, 2]:
        return None
    places += [k for k in range(len(bands)) if k not in places]
    return _order(tuple(bands[k].label for k in places), places, bands, True)


def scale_note(datasets: Sequence[Any]) -> tuple[str, ...]:
    """Return a note on scales and offsets that files tag, which are not applied."""
    pairs = {pair for dataset in datasets for pair in zip(dataset.scales, dataset.offsets, strict=True)} - {(1.0, 0.0)}
    if not pairs:
        return ()
    scale, offset = min(pairs)
    others = f" (and {len(pairs) - 1} others)" if len(pairs) > 1 else ""
    return (
        f"its values are used as stored: the scale {scale:g} and offset {offset:g}{others} that it tags are not "
        "applied, so the images of training and prediction must have the same",
    )


def alpha_note(hidden: bool, seen: bool) -> tuple[str, ...]:
    """Return a note on an alpha band that only marks where there is data, or that a network sees as a channel."""
    if hidden:
        return ("its alpha band is not a channel; it marks where there is data",)
    return ("its alpha band is taken for a channel, as so many are expected",) if seen else ()

"""Labels as polygons: which class each polygon has, burned onto the pixels of a scene while it is read.

Where polygons overlap, the class that comes later in the card wins, and ignored polygons win over all classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.card import Card
from mlla_seg.data.card_vectors import PolygonKeys, as_text, spelled
from mlla_seg.data.formats.burning import PIXELS, POLYGON, Canvas, burn, exploded, unplaced
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.vector_sources import Layer, open_layer, parts_of
from mlla_seg.errors import InputError

LEFT_OUT = -1
"""Stands for polygons that are not burned."""
SHOWN = 5


@dataclass(frozen=True)
class Survey:
    """What the layer of a vector file holds."""

    polygons: int
    values: Mapping[str, int]
    """Number of features with polygons by the text of their attribute; empty text for none."""
    empty: int
    """Features without a geometry, or with an empty one."""
    others: Mapping[str, int]
    """Number of points and lines, also in collections, by type."""
    unread: Mapping[str, int]
    """Number of features whose geometry cannot be read, by type."""
    invalid: int
    """Polygons with an outline that crosses or touches itself."""


@dataclass(frozen=True)
class PolygonLabels:
    """Polygons as labels of a scene."""

    layer: Layer
    canvas: Canvas
    known: Mapping[str, int]
    """Class index by the text of the attribute; empty if every polygon is of the same class."""
    other: int
    """Class index, ``IGNORE_INDEX`` or ``LEFT_OUT`` of all other polygons."""
    rest: int
    all_touched: bool

    def read(self, top: int, left: int, height: int, width: int) -> Array:
        """Return the class indices ``(height, width)`` of a window."""
        part = (top, left, height, width)
        return burn(self.layer, self.canvas, part, self._classes, self.rest, self.all_touched)

    def _classes(self, values: Sequence[Any]) -> Array:
        return np.array([self.known.get(as_text(value), self.other) for value in values], np.int64)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the polygons lie on the image."""
        if self.layer.crs is None:
            placed = self.canvas.ground != PIXELS
            own = "that of the image" if self.canvas.ground.crs else "those of the image" if placed else "pixels"
            return (f"{self.layer.path.name} has no CRS; its coordinates are taken to be in {own}",)
        if self.layer.crs is not None and self.canvas.ground.crs is None:
            return (f"it has no CRS; its coordinates are taken to be in that of {self.layer.path.name}",)
        return ()


def polygon_labels(card: Card, path: Path, ground: Ground | None, image: str) -> PolygonLabels:
    """Open a vector file as the labels of a scene.

    Args:
        card: Says which attribute tells the class.
        path: The vector file.
        ground: Georeference of the scene.
        image: Its name, for messages.

    Raises:
        InputError: The file cannot be read, has values that no class names, or no place on the scene.
    """
    layout = card.layout
    layer = open_layer(path, layout.layer, layout.attribute)
    canvas = Canvas.of(ground, layer, image)
    rest = _rest(card)
    if layout.attribute is None:
        return PolygonLabels(layer, canvas, {}, _only_class(card), rest, layout.all_touched)
    known = classes_by_value(card, layer)
    _refuse_others(card, layer, known)
    other = IGNORE_INDEX if layout.others == "ignore" else LEFT_OUT
    return PolygonLabels(layer, canvas, known, other, rest, layout.all_touched)


def labelled_area(card: Card, path: Path, ground: Ground | None, image: str) -> PolygonLabels:
    """Open the polygons of the area that was labelled: 0 inside, ``IGNORE_INDEX`` elsewhere."""
    layer = open_layer(path, card.layout.area_layer, key="area_layer")
    return PolygonLabels(layer, Canvas.of(ground, layer, image), {}, 0, IGNORE_INDEX, card.layout.all_touched)


def _rest(card: Card) -> int:
    """Return the class index of pixels in no polygon."""
    if card.layout.rest is not None:
        return card.class_names.index(card.layout.rest)
    return IGNORE_INDEX if card.background_index is None else card.background_index


def _only_class(card: Card) -> int:
    """Return the class of polygons without an attribute: that of the two which is not the rest."""
    if len(card.classes) != 2:
        raise InputError(f"{card.name}: {len(card.classes)} classes of polygons need an attribute in the layout.")
    return 0 if _rest(card) == 1 else 1


def classes_by_value(card: Card, layer: Layer) -> dict[str, int]:
    """Return class indices, or ``IGNORE_INDEX``, by the text of the attribute.

    Values that the card does not give are the name of a class, or its ids if the attribute is a number.
    """
    text = layer.fields[str(card.layout.attribute)] == "object"
    given = {k: spelled(entry.values) for k, entry in enumerate(card.classes) if entry.values is not None}
    known = {value: k for k, values in given.items() for value in values}
    known |= dict.fromkeys(spelled(card.layout.ignored_values), IGNORE_INDEX)
    for k, entry in enumerate(card.classes):
        if k not in given:
            for own in [entry.name] if text else [str(value) for value, owner in card.ids.items() if owner == k]:
                known.setdefault(own, k)
    return known


def _refuse_others(card: Card, layer: Layer, known: Mapping[str, int]) -> None:
    """Raise if polygons have values that no class names, unless the card says what becomes of them."""
    if card.layout.others != "refuse":
        return
    found = survey(layer)
    if unknown := {value: count for value, count in found.values.items() if value not in known}:
        raise InputError(
            f"{layer.path}: {sum(unknown.values())} of {found.polygons} polygons have a value of "
            f"{card.layout.attribute} that no class names: {listed(unknown)}. The classes take "
            f"{', '.join([*known][:12])}. Add it to the values of a class or to ignored_values, or set others: skip or "
            "ignore in the card's layout."
        )


def listed(values: Mapping[str, int]) -> str:
    """Return the most frequent values with their counts, in words."""
    most = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{value!r} ({count})" if value else f"none at all ({count})" for value, count in most[:SHOWN])
    return shown + (f" and {len(most) - SHOWN} others" if len(most) > SHOWN else "")


_SURVEYS: dict[tuple[Any, ...], Survey] = {}


def survey(layer: Layer) -> Survey:
    """Read a whole layer, once per process as long as its file does not change.

    Raises:
        InputError: A polygon has a coordinate that is no number.
    """
    versions = [(path, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in parts_of(layer.path)]
    key = (layer.name, layer.column, *versions)
    if key not in _SURVEYS:
        _SURVEYS[key] = _survey(layer)
    return _SURVEYS[key]


def _survey(layer: Layer) -> Survey:
    import shapely

    values: Counter[str] = Counter()
    others: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    empty = invalid = 0
    for batch in layer.batches():
        shapes = batch.geometries()
        unread.update(lost := batch.unread(shapes))
        empty += int((shapely.is_missing(shapes) | shapely.is_empty(shapes)).sum()) - len(lost)
        with np.errstate(invalid="ignore"):
            parts, owners = exploded(shapes)
        area = shapely.get_type_id(parts) == POLYGON
        wrong = unplaced(parts)
        if wrong.any():
            raise InputError(
                f"{layer.path}: geometry {batch.ids[owners[wrong][0]]} has a coordinate that is NaN or infinite, as "
                f"{int(wrong.sum())} have in all. Correct or remove it."
            )
        values.update(as_text(batch.values[k]) for k in np.unique(owners[area]).tolist())
        others.update(part.geom_type for part in parts[~area])
        invalid += int((~shapely.is_valid(parts[area])).sum())
    return Survey(sum(values.values()), dict(values), empty, dict(others), dict(unread), invalid)


def fingerprint_of_polygons(card: Card) -> list[Any]:
    """Return everything in a card that decides how polygons become labels."""
    keys = [getattr(card.layout, field.name) for field in fields(PolygonKeys)]
    return [keys, [entry.values for entry in card.classes], card.background]

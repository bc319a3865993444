"""Keys of a card for labels as polygons: which attribute tells the class, and what becomes of everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

from mlla_seg.data.formats.vector_sources import VECTOR_SUFFIXES
from mlla_seg.errors import InputError

Text: TypeAlias = Annotated[str, Strict()]
Value: TypeAlias = Annotated[bool, Strict()] | Annotated[int, Strict()] | Annotated[float, Strict()] | str
"""A value of an attribute."""
SPELLINGS = {
    True: [word for yes in ("yes", "on", "true") for word in (yes, yes.title(), yes.upper())],
    False: [word for no in ("no", "off", "false") for word in (no, no.title(), no.upper())],
}
"""Words that YAML turns into true and false, such as ``building: yes`` of OpenStreetMap."""


def says(expected: str) -> Any:
    """Return what a key expects, for messages and the schema."""
    return Field(description=expected)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PolygonKeys:
    """Keys of a layout whose masks are vector files.

    They are described by ``says`` and not by docstrings, which pydantic does not inherit.
    """

    attribute: Annotated[
        Text | None,
        says("the attribute of polygons that tells their class; by default all are of the second class"),
    ] = None
    layer: Annotated[Text | None, says("the layer of a GeoPackage with the polygons, if it has several")] = None
    all_touched: Annotated[
        bool,
        Strict(),
        says("true to label every pixel that a polygon touches, by default those whose centre is inside"),
    ] = False
    rest: Annotated[
        Text | None, says("the class of pixels in no polygon; by default background, or ignored if the card has none")
    ] = None
    others: Annotated[
        Literal["refuse", "skip", "ignore"],
        says("refuse, skip or ignore: what becomes of polygons with a value that no class names"),
    ] = "refuse"
    ignored_values: Annotated[
        tuple[Value, ...], says("a list of values of the attribute to exclude from training and scores")
    ] = ()
    area: Annotated[
        Text | tuple[Text, ...],
        says("where to find the polygons of the area that was labelled, in the same form as mask; the rest is ignored"),
    ] = ()
    area_layer: Annotated[Text | None, says("the layer of a GeoPackage with the area, if it has several")] = None

    @property
    def about_polygons(self) -> list[str]:
        """Keys that are set and only have a meaning for labels as polygons."""
        keys = [field.name for field in fields(PolygonKeys) if not field.name.startswith("area")]
        defaults = PolygonKeys()
        return [key for key in keys if getattr(self, key) != getattr(defaults, key)]


def as_text(value: Any) -> str:
    """Return a value of an attribute as text, whole numbers without a point; empty if there is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value != value:  # NaN stands for none in columns of numbers
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def spelled(values: Value | Sequence[Value]) -> list[str]:
    """Return all texts for which the values of a card stand."""
    listed = values if isinstance(values, tuple | list) else [values]
    return [text for v in listed for text in (SPELLINGS[v] if isinstance(v, bool) else [as_text(v)])]


def check_polygon_keys(keys: PolygonKeys, places: Sequence[str], values: Mapping[str, Any]) -> None:
    """Check the keys of a card about polygons against each other.

    Args:
        keys: The layout of the card.
        places: Templates of its masks.
        values: Values of the attribute by class, None where the card gives none.

    Raises:
        InputError: They contradict each other, or leave open which polygon is of which class.
    """
    vector = any(place.lower().endswith((*VECTOR_SUFFIXES, "*")) for place in places)
    given = [*keys.about_polygons, *(["values of classes"] if any(v is not None for v in values.values()) else [])]
    if given and places and not vector:
        known = ", ".join(VECTOR_SUFFIXES)
        raise InputError(f"{given[0]} is for labels as polygons, but mask names no vector file ({known}).")
    if keys.attribute is None and ("values of classes" in given or keys.ignored_values):
        raise InputError("values of polygons need the name of their attribute: set attribute in layout.")
    always = all(place.lower().endswith(VECTOR_SUFFIXES) for place in places)
    if places and always and keys.attribute is None and len(values) != 2:
        raise InputError(f"{len(values)} classes need an attribute that tells the polygons apart: set it in layout.")
    if keys.rest is not None and keys.rest not in values:
        raise InputError(f"rest is {keys.rest!r}, which is no class; the classes are {', '.join(values)}.")
    owners: dict[str, str] = {}
    ignored = {"ignored_values": keys.ignored_values}
    for name, own in {**values, **ignored}.items():
        for text in spelled(own) if own is not None else []:
            if owners.setdefault(text, name) != name:
                raise InputError(f"the value {text!r} is listed by {owners[text]} and by {name}; one must have it.")

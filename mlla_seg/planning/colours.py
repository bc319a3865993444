"""Colours of planned classes: those that maps usually give to land cover, and distinct hues for all other names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import dist
from typing import TypeAlias

from mlla_seg.data.formats.classes import class_colour
from mlla_seg.planning.words import tokens

Colour: TypeAlias = tuple[int, int, int]
USUAL: dict[Colour, frozenset[str]] = {
    (230, 80, 80): frozenset(("building", "built", "house", "roof", "footprint")),
    (240, 210, 60): frozenset(("road", "street", "highway")),
    (80, 124, 230): frozenset(("water", "river", "lake", "sea", "pond")),
    (50, 160, 70): frozenset(("forest", "tree", "wood", "woodland")),
    (150, 215, 90): frozenset(("grass", "meadow", "vegetation", "pasture", "shrub")),
    (240, 150, 60): frozenset(("agriculture", "agricultural", "crop", "cropland", "farmland", "field")),
}
"""Colours by the words, in the singular, that name what has them."""
APART = 90.0
"""Least distance of another hue from a usual colour, in levels of red, green and blue."""


def colours_of(names: Sequence[str]) -> list[Colour]:
    """Return a colour for each class: a usual one by its name, unless an earlier class has it, or else a hue.

    Only the background is black.
    """
    chosen: dict[int, Colour] = {}
    for k, name in enumerate(names):
        words = {form for word in tokens(name.lower()) for form in (word, word.removesuffix("s"))}
        usual = next((colour for colour, known in USUAL.items() if words & known), None)
        if usual is not None and usual not in chosen.values():
            chosen[k] = usual
    taken = list(chosen.values())
    for k in range(len(names)):
        if k not in chosen:
            hues = (class_colour(n) for n in count(k if names[k] == "background" else max(k, 1)))
            chosen[k] = next(
                hue for hue in hues if hue not in chosen.values() and all(dist(hue, other) >= APART for other in taken)
            )
    return [chosen[k] for k in range(len(names))]

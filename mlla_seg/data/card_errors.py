"""Messages about what is wrong with a data set card, from the errors of pydantic."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mlla_seg.data.card_sections import CardClass, CardNormalisation, CardScribbles, Layout
from mlla_seg.data.card_splits import CardSplits
from mlla_seg.errors import unknown

SECTIONS: dict[str, Any] = {
    "classes": CardClass,
    "normalisation": CardNormalisation,
    "layout": Layout,
    "splits": CardSplits,
    "scribbles": CardScribbles,
}
"""Keys of a card that hold a section, and the type of the section."""


def explain(card: Any, path: Path, content: Mapping[str, Any], errors: Sequence[Any]) -> str:
    """Describe what is wrong with a card: its missing keys, or the first invalid value.

    Args:
        card: The type of cards, whose field docstrings are the expected values.
        path: File of the card.
        content: What the file holds.
        errors: Errors of pydantic, from ``ValidationError.errors()``.
    """
    missing = [str(error["loc"][0]) for error in errors if error["type"] == "missing" and len(error["loc"]) == 1]
    if missing:
        return f"{path} lacks {', '.join(missing)}. See docs/datasets.md for the keys of a card."
    error, place = errors[0], errors[0]["loc"]
    keys = [part for part in place if isinstance(part, str)]
    own = [field.name for field in fields(SECTIONS[keys[0]])] if keys and keys[0] in SECTIONS else []
    if error["type"] == "unexpected_keyword_argument" and len(keys) == 2:  # in a section; load_card checks the others
        return unknown(own, keys[-1], f"key of {keys[0]} in {path}:")
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return unknown(choices, error["input"], f"{' of '.join(reversed(keys))} in {path}:")
    if error["type"] == "value_error":  # raised by our own validators
        return f"{path}: {error['ctx']['error']}"
    owner = card
    name, where, found = keys[0], keys[0], content[keys[0]]
    if name == "classes" and len(place) > 1:
        found, where = found[place[1]], f"class {place[1]}"
    inner = next((key for key in keys[1:] if key in own), None)
    if inner and isinstance(found, dict) and inner in found:
        owner, name, where, found = SECTIONS[name], inner, f"{inner} of {where}", found[inner]
    return f"{path}: {where} is {found!r}, expected {owner.__pydantic_fields__[name].description}."

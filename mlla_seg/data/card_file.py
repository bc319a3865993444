"""Finding, reading and validating card files.

``python -m mlla_seg.data.card_file`` prints the JSON schema with which editors complete and check cards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from mlla_seg.data.card import Card, CardClass, CardNormalisation, CardSplits, Layout
from mlla_seg.data.shipped import shipped
from mlla_seg.errors import InputError, lookup, unknown

SECTIONS: dict[str, Any] = {
    "classes": CardClass,
    "normalisation": CardNormalisation,
    "layout": Layout,
    "splits": CardSplits,
}
"""Keys of a card that hold a section, and the type of the section."""
ADAPTER = TypeAdapter(Card)


def find_card(name: str | Path) -> Path:
    """Return the file of a card, given by path or by name in ``./datasets`` or among the shipped cards."""
    path = Path(name)
    if (path / "dataset.yaml").is_file():
        return path / "dataset.yaml"
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(
                f"No card at {path.absolute()}. Give the path of a dataset.yaml or the name of a shipped card."
            )
        return path
    folders = [Path("datasets"), shipped("datasets")]
    known = {
        found.parent.name: found for folder in reversed(folders) for found in sorted(folder.glob("*/dataset.yaml"))
    }
    return lookup(known, str(name), "data set")


def load_card(name: str | Path) -> Card:
    """Read a card by path or name.

    Raises:
        InputError: There is no such card, or a key is missing, unknown or contradictory.
    """
    path = find_card(name)
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should be a mapping of keys such as name, channels and classes.")
    known = dict.fromkeys(field.name for field in fields(Card) if field.name != "folder")
    for key in content:
        lookup(known, key, f"key in {path}:")
    try:
        return ADAPTER.validate_python({**content, "folder": path.parent})
    except ValidationError as error:
        raise InputError(_explain(path, content, error.errors())) from None


def _explain(path: Path, content: Mapping[str, Any], errors: Sequence[Any]) -> str:
    """Describe what is wrong with a card: its missing keys, or the first invalid value."""
    missing = [str(error["loc"][0]) for error in errors if error["type"] == "missing" and len(error["loc"]) == 1]
    if missing:
        return f"{path} lacks {', '.join(missing)}. See docs/datasets.md for the keys of a card."
    error, place = errors[0], errors[0]["loc"]
    keys = [part for part in place if isinstance(part, str)]
    own = [field.name for field in fields(SECTIONS[keys[0]])] if keys and keys[0] in SECTIONS else []
    if error["type"] == "unexpected_keyword_argument":  # in a section; keys of the card are checked by load_card
        return unknown(own, keys[-1], f"key of {keys[0]} in {path}:")
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return unknown(choices, error["input"], f"{' of '.join(reversed(keys))} in {path}:")
    if error["type"] == "value_error":  # raised by our own validators
        return f"{path}: {error['ctx']['error']}"
    owner: Any = Card
    name, where, found = keys[0], keys[0], content[keys[0]]
    if name == "classes" and len(place) > 1:
        found, where = found[place[1]], f"class {place[1]}"
    inner = next((key for key in keys[1:] if key in own), None)
    if inner and isinstance(found, dict) and inner in found:
        owner, name, where, found = SECTIONS[name], inner, f"{inner} of {where}", found[inner]
    return f"{path}: {where} is {found!r}, expected {owner.__pydantic_fields__[name].description}."


def schema() -> dict[str, Any]:
    """Return the JSON schema of cards."""
    content = ADAPTER.json_schema()
    content["properties"].pop("folder")
    content["required"].remove("folder")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **content}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))

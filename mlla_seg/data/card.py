"""The card of a data set (``datasets/<name>/dataset.yaml``), read and validated.

A card says everything the program must know of a data set, so that a new one needs no Python: what the channels and
classes are, how the files lie, who is in which split, where to get it. What a trained network must remember of it is
:meth:`Card.spec`, a plain dict that travels in the checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from string import Formatter
from typing import Any

from mlla_seg.data.formats.planes import ACQUIRED, PLANES
from mlla_seg.errors import InputError, lookup

NORMALISATION_KEYS = {"mean", "std", "window", "per_image", "per_case", "foreground", "measured"}
SPLITS = ("train", "val", "test")
MEDIAN = "median"
"""In place of a distance: the median of the cases."""

NOTHING = type(None)
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "title", "modality", "source", "licence", "plane"), (str,)),
    **dict.fromkeys(("channels", "classes"), (list,)),
    **dict.fromkeys(("normalisation", "layout", "splits"), (dict,)),
    **dict.fromkeys(("background", "largest_class", "smallest_class"), (str, NOTHING)),
    "array_units": (dict, NOTHING),
    **dict.fromkeys(("spacing_mm", "use"), (list, NOTHING)),
    "ignore_index": (int,),
}
"""What each key of a card holds."""


@dataclass(frozen=True)
class Card:
    """One data set. See ``docs/datasets.md`` for the meaning of each key in a card."""

    name: str
    title: str
    modality: str
    channels: tuple[str, ...]
    classes: tuple[dict[str, Any], ...]
    normalisation: dict[str, Any]
    layout: dict[str, Any]
    splits: dict[str, Any]
    source: str
    licence: str
    folder: Path
    ignore_index: int = 255
    background: str | None = "background"
    plane: str = "axial"
    array_units: dict[str, float] | None = None
    spacing_mm: list[float | str | None] | None = None
    largest_class: str | None = None
    smallest_class: str | None = None
    use: tuple[str, ...] | None = None

    @property
    def seen(self) -> tuple[str, ...]:
        """Channels that the network sees, in their order: all bands of the image files unless ``use`` says others."""
        return self.use or self.channels

    @property
    def further(self) -> dict[str, str]:
        """Channels that lie in files of their own and are used: where, as a template."""
        return {name: place for name, place in self.layout.get("extra_channels", {}).items() if name in self.seen}

    @property
    def bands(self) -> tuple[str, ...]:
        """What the files of one image hold, one after the other."""
        return (*self.channels, *self.further)

    def using(self, names: Sequence[str]) -> Card:
        """The card of a network that sees these channels, in this order.

        Raises:
            InputError: One that the card does not know, or one twice.
        """
        known = dict.fromkeys([*self.channels, *self.layout.get("extra_channels", {})])
        for name in names:
            lookup(known, name, f"channel of {self.name}:")
        if not names or len(set(names)) < len(names):
            raise InputError(f"{self.name}: channels are one or more names, each once, got {', '.join(names)}.")
        for key in ("mean", "std"):
            value = self.normalisation.get(key)
            if isinstance(value, list) and len(value) != len(names):
                raise InputError(
                    f"{self.name}: the card's {key} is for {len(value)} channels, not for {', '.join(names)}. "
                    "Say measured: true in its normalisation."
                )
        return replace(self, use=tuple(names))

    @property
    def class_names(self) -> list[str]:
        return [entry["name"] for entry in self.classes]

    @property
    def ids(self) -> dict[int, int]:
        """Index of the class that each value in the masks stands for: its position, unless the card gives ids."""
        return {value: k for k, entry in enumerate(self.classes) for value in _values(entry, k)}

    def spec(self) -> dict[str, Any]:
        """What prediction needs to know, in plain types: classes, colours, channels, normalisation and geometry."""
        names = self.class_names
        values = {k: value for value, k in reversed(self.ids.items())}  # the first of each
        return {
            "name": self.name,
            "modality": self.modality,
            "channels": list(self.seen),
            "bands": list(self.bands),
            "classes": [
                {"name": entry["name"], "colour": list(entry["colour"]), "id": values[k]}
                for k, entry in enumerate(self.classes)
            ],
            "background": names.index(self.background) if self.background in names else None,
            "ignore_index": self.ignore_index,
            "normalisation": dict(self.normalisation),
            "plane": self.plane,
            "array_units": dict(self.array_units) if self.array_units else None,
            "spacing_mm": list(self.spacing_mm) if self.spacing_mm and any(self.spacing_mm) else None,
        }


def is_spacing(value: Sequence[Any]) -> bool:
    """Whether these are three distances, each a number above zero, ``median`` or none."""
    return len(value) == 3 and all(step in (None, MEDIAN) or (_is_number(step) and step > 0) for step in value)


def _values(entry: dict[str, Any], position: int) -> list[Any]:
    """The values in the masks that stand for a class."""
    given = entry.get("id", position)
    return given if isinstance(given, list) else [given]


def find_card(name: str | Path) -> Path:
    """The file of a card: a path, or a name below ``datasets/`` here or in the checkout this package lies in."""
    path = Path(name)
    if (path / "dataset.yaml").is_file():
        return path / "dataset.yaml"
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(
                f"No card at {path.absolute()}. Give the path of a dataset.yaml or the name of a shipped card."
            )
        return path
    folders = [Path("datasets"), Path(__file__).parents[2] / "datasets"]
    known = {
        found.parent.name: found for folder in reversed(folders) for found in sorted(folder.glob("*/dataset.yaml"))
    }
    return lookup(known, str(name), "data set")


def load_card(name: str | Path) -> Card:
    """Reads a card by path or name.

    Raises:
        InputError: No such card, or something in it is missing, unknown or contradictory.
    """
    import yaml  # volumes know of planes, and the runtime reads them without

    path = find_card(name)
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should be a mapping of keys such as name, channels and classes.")
    known = {field.name: field for field in fields(Card) if field.name != "folder"}
    for key in content:
        lookup(known, key, f"key in {path}:")
    required = [key for key, field in known.items() if field.default is MISSING]
    missing = [key for key in required if key not in content]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}. See docs/datasets.md for what a card says.")
    for key, value in content.items():
        if not isinstance(value, TYPES[key]):
            found = "nothing" if value is None else f"{value!r}"
            raise InputError(f"{path}: {key} should be {TYPES[key][0].__name__}, found {found}.")
    for key in ("channels", "classes", "use"):
        content[key] = tuple(content[key]) if content.get(key) is not None else None
    card = Card(folder=path.parent, **content)
    _validate(card, path)
    return card.using(card.use) if card.use else card


def _validate(card: Card, path: Path) -> None:
    def demand(condition: bool, problem: str) -> None:
        if not condition:
            raise InputError(f"{path}: {problem}")

    demand(len(card.channels) > 0, "channels is empty; name at least one.")
    demand(len(card.classes) >= 2, f"classes needs at least two entries, found {len(card.classes)}.")
    demand(len(card.classes) <= 255, f"at most 255 classes fit into a mask, found {len(card.classes)}.")
    names = [*card.channels, *(card.use or ())]
    demand(all(isinstance(name, str) for name in names), f"channels are names, found {names}.")
    for entry in card.classes:
        demand(
            isinstance(entry, dict)
            and {"name", "colour"} <= set(entry) <= {"name", "colour", "id"}
            and isinstance(entry["name"], str)
            and isinstance(entry["colour"], list)
            and len(entry["colour"]) == 3
            and all(isinstance(value, int) and 0 <= value <= 255 for value in entry["colour"]),
            f"each class is {{name: ..., colour: [red, green, blue]}}, found {entry} (quote names such as 'no').",
        )
        values = _values(entry, 0)
        demand(
            len(values) > 0 and all(isinstance(value, int) and 0 <= value < 2**16 for value in values),
            f"the id of {entry['name']} is a number in the masks or a list of them, found {entry.get('id')!r}.",
        )
    names = card.class_names
    demand(len(set(names)) == len(names), f"class names repeat: {', '.join(names)}.")
    values = [value for k, entry in enumerate(card.classes) for value in _values(entry, k)]
    demand(len(set(values)) == len(values), f"two classes have one id; the ids are {values}.")
    demand(
        card.ignore_index not in card.ids,
        f"ignore_index {card.ignore_index} is also the id of a class; 255 is usual.",
    )
    threshold = card.layout.get("mask_threshold")
    demand(
        threshold is None or (_is_number(threshold) and len(card.classes) == 2),
        f"mask_threshold is a number, above which a pixel is of the second of two classes, found {threshold!r}.",
    )
    lookup(dict.fromkeys((*PLANES, ACQUIRED)), card.plane, f"plane in {path}:")
    for key in ("largest_class", "smallest_class"):
        if getattr(card, key) is not None:
            lookup(dict.fromkeys(names), getattr(card, key), f"{key} in {path}:")
    for key in card.normalisation:
        lookup(dict.fromkeys(NORMALISATION_KEYS), key, f"normalisation in {path}:")
    demand(
        card.spacing_mm is None or is_spacing(card.spacing_mm),
        f"spacing_mm is [slices, rows, columns] in mm, null where it stays as it is, {MEDIAN} for that of the cases, "
        f"found {card.spacing_mm}.",
    )
    measures = {"foreground", "measured", "per_case"} & set(card.normalisation)
    demand(not measures or len(card.normalisation) == 1, "what is measured leaves no other key to normalisation.")
    demand("foreground" not in measures or len(card.channels) == 1, "foreground is for images of one channel.")
    demand(
        card.layout.get("format") in ("files", "nnunet") and "tree" in card.layout,
        "layout needs format (files or nnunet) and tree (how the folder looks, shown when it is missing).",
    )
    demand(
        card.layout["format"] == "nnunet" or bool(card.layout.get("patterns")),
        "layout with format 'files' needs patterns: one regular expression per kind of file, relative to the root.",
    )
    _validate_patterns(card, demand)
    _validate_numbers(card, demand)
    for split in card.splits:
        lookup(dict.fromkeys((*SPLITS, "seed")), split, f"split in {path}:")
    demand(
        "train" in card.splits or "seed" in card.splits, "splits needs train: a file, or seed, val and test fractions."
    )


def _validate_patterns(card: Card, demand: Callable[[bool, str], None]) -> None:
    """Expressions that compile and find a case, and templates that only use what they find."""
    patterns = card.layout.get("patterns", [])
    demand(isinstance(patterns, list), f"patterns is a list of regular expressions, found {patterns!r}.")
    for pattern in patterns:
        try:
            groups = re.compile(pattern).groupindex
        except (re.error, TypeError) as error:
            demand(False, f"the pattern {pattern!r} is no regular expression ({error}).")
        demand("case" in groups, f"the pattern {pattern!r} needs a group (?P<case>...), which names the case.")
        for key, template in _templates(card, demand):
            used = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
            demand(
                used <= set(groups), f"{key} uses {sorted(used - set(groups))}, which the pattern {pattern!r} lacks."
            )


def _templates(card: Card, demand: Callable[[bool, str], None]) -> list[tuple[str, str]]:
    """Every template of the layout with its key."""
    extra = card.layout.get("extra_channels", {})
    demand(isinstance(extra, dict), f"extra_channels maps names to where they lie, found {extra!r}.")
    demand(not set(extra) & set(card.channels), f"extra_channels repeats {sorted(set(extra) & set(card.channels))}.")
    found = [(f"extra_channels {name}", template) for name, template in extra.items()]
    for key in ("mask", "test_mask"):
        value = card.layout.get(key, [])
        found += [(key, template) for template in (value if isinstance(value, list) else [value])]
    for key, template in found:
        demand(isinstance(template, str), f"{key} is a path below the root, found {template!r}.")
    return found


def _validate_numbers(card: Card, demand: Callable[[bool, str], None]) -> None:
    """Fractions of splits, and numbers of the normalisation."""
    for split, value in card.splits.items():
        if "seed" not in card.splits:
            demand(isinstance(value, str), f"the split {split} is a file with a patient a line, found {value!r}.")
        elif split != "seed":
            demand(
                _is_number(value) and 0 <= value < 1, f"the split {split} is a fraction from 0 to 1, found {value!r}."
            )
    for key in ("mean", "std"):
        values = card.normalisation.get(key, 1)
        numbers = values if isinstance(values, list) else [values]
        demand(
            all(map(_is_number, numbers)),
            f"{key} of the normalisation is a number or one per channel, found {values!r}.",
        )
    window = card.normalisation.get("window", [0, 1])
    demand(
        isinstance(window, list) and len(window) == 2 and all(map(_is_number, window)) and window[0] < window[1],
        f"window of the normalisation is [low, high], found {window!r}.",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

"""Choices of a card and a config for surveyed data, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from mlla_seg.errors import InputError
from mlla_seg.planning.attributes import kinds
from mlla_seg.planning.colours import colours_of
from mlla_seg.planning.recognise import Recognised
from mlla_seg.planning.survey import Survey

IGNORED = 255
AIR_HU = -500
"""Values below which whole numbers are taken for Hounsfield units."""
MULTIPLE = 32
"""Crops are multiples of this, by which the networks divide them."""
SMALL = 64
"""Side in pixels below which volumes are enlarged for the network."""
ENLARGED = 96
"""Side to which small slices are enlarged, at most by a factor of two."""
LARGEST = {"cpu": 256, "cuda": 512}
"""Largest side of a crop by the device."""
FLAT = 3.0
"""Ratio of the spacing of slices to that of pixels up to which neighbouring slices tell about each other."""
EVEN = 1.05
"""Ratio of the largest to the smallest pixel spacing up to which volumes are not resampled."""
RARE = 0.05
"""Fraction of the pixels below which a class is rare."""
FRACTIONS = {"seed": 0, "val": 0.1, "test": 0.2}
"""Splits that are drawn where nothing defines them."""
BLOCKS = {"blocks": "4x4", "val": 0.125, "test": 0.25, "gap_px": 32}
FEWEST = 3
"""Scenes below which each is divided into blocks."""
FEW = 10
"""Cases below which splits say little."""


@dataclass(frozen=True)
class Choice:
    """A value of a card or config, and why it was chosen."""

    value: Any
    reason: str = ""


Section = dict[str, Choice]


@dataclass
class Plan:
    """A card and the section ``data`` of a config, and what is not certain."""

    card: Section
    data: Section
    unsure: list[str] = field(default_factory=list)
    """What to look at, in sentences."""


def choose(name: str, seen: Recognised, found: Survey, device: str, ignored: int | None = None) -> Plan:
    """Choose the contents of a card and of a config's section ``data``.

    Args:
        name: Name of the data set.
        seen: How its files are named.
        found: What they hold.
        device: ``cpu`` or ``cuda``.
        ignored: Mask value of unlabelled pixels, if the user gave it.

    Raises:
        InputError: No mask holds ``ignored``, or masks hold another negative value.
    """
    plan = Plan({}, {})
    card = plan.card
    card["name"] = Choice(name)
    card["title"] = Choice(name)
    card["modality"] = Choice(modality(found), _modality_reason(found))
    layout = _channels(plan, seen, found)
    layout |= _classes(plan, found, ignored)
    _normalisation(plan, found)
    if found.kind == "volume":
        _geometry(plan, found)
    card["layout"] = Choice({**layout, "tree": seen.what})
    _splits(plan, layout, found)
    card["source"] = Choice("your own")
    card["licence"] = Choice("your own")
    _samples(plan, found, device)
    return plan


def modality(found: Survey) -> str:
    """Return a guess of the modality."""
    if found.is_flat:
        return "aerial or satellite" if found.kind == "scene" else "photos"
    return "CT" if _is_ct(found) else "MR"


def _is_ct(found: Survey) -> bool:
    return found.kind == "volume" and found.whole and found.low <= AIR_HU


def _modality_reason(found: Survey) -> str:
    if found.is_flat:
        return ""
    values = f"values from {found.low:g} to {found.high:g}"
    return f"{values}, as Hounsfield units" if _is_ct(found) else f"{values}, which are no Hounsfield units"


def _channels(plan: Plan, seen: Recognised, found: Survey) -> dict[str, Any]:
    """Choose the channels; return the layout, whose first file is the one with the most bands."""
    layout: dict[str, Any] = dict(seen.layout)
    bands = found.bands
    if not seen.channels:
        names, known = _band_names(bands[0])
        reason = "in the order of the files" if len(names) > 1 else ""
        plan.card["channels"] = Choice(names, "as the files name them" if known else reason)
        if not known and len(names) > 1:
            plan.unsure.append(f"The files do not name their {len(names)} bands: name the channels in the card.")
        return layout
    several = [k for k, own in enumerate(bands) if len(own) > 1]
    if several:
        dropped = [seen.channels[k] for k in range(1, len(bands)) if k in several]
        for name in dropped:
            layout["extra_channels"].pop(name)
            plan.unsure.append(f"The files {name} have several bands beside those of the first; they are not used.")
        names, _ = _band_names(bands[0])
    else:
        names = [seen.channels[0]]
    further = list(layout.get("extra_channels") or {})
    plan.card["channels"] = Choice(names, "in the first file of each case")
    if further:
        plan.card["use"] = Choice([*names, *further], "one file each")
    else:
        layout.pop("extra_channels", None)
    return layout


def _band_names(bands: Sequence[str]) -> tuple[list[str], bool]:
    """Return names for bands, and whether the file gives them."""
    if all(bands) and len(set(bands)) == len(bands):
        return list(bands), True
    if len(bands) == 1:
        return ["image"], False
    return [f"band_{k + 1}" for k in range(len(bands))], False


def _classes(plan: Plan, found: Survey, given: int | None) -> dict[str, Any]:
    """Choose the classes; return what they add to the layout."""
    if given is not None and given not in found.values:
        held = ", ".join(map(str, sorted(found.values))) or "no numbers"
        raise InputError(f"--ignore {given}: no mask holds this value; they hold {held}.")
    if found.polygons:
        return _polygon_classes(plan, found)
    if found.colours:
        _coloured_classes(plan, found)
        return {"coloured_masks": True}
    values = dict(sorted(found.values.items()))
    if found.lossy and values:
        plan.card["classes"] = Choice(coloured([_entry("background"), _entry("class_1")]))
        plan.unsure.append("Masks are JPEG files, whose values are not exact: values above 127 are class_1.")
        return {"mask_threshold": 127}
    ignored = given if given is not None else _far(values)
    ids = [value for value in values if value != ignored]
    if ids and ids[0] < 0:
        raise InputError(
            f"Masks hold the value {ids[0]}, and the ids of classes are 0 to 65535. Plan again with --ignore={ids[0]} "
            "if it marks unlabelled pixels; otherwise change the masks."
        )
    entries = []
    for value in ids:
        name = found.names.get(value) or ("background" if value == 0 else f"class_{value}")
        entries.append(_entry(name, value if ids != list(range(len(ids))) else None))
    shares = ", ".join(f"{value}: {count / sum(values.values()):.2%}" for value, count in values.items())
    plan.card["classes"] = Choice(
        coloured(entries), f"pixels by mask value in {found.masks} of {found.cases} masks: {shares}"
    )
    if given is not None:
        reason = "as --ignore says"
    else:
        reason = "mask value that is far from the others" if ignored else "no mask value stands for unlabelled pixels"
    plan.card["ignore_index"] = Choice(ignored, reason)
    if 0 not in ids:
        plan.card["background"] = Choice(None, "no class has the mask value 0, so every class counts")
    if unnamed := [entry["name"] for entry in entries if entry["name"].startswith("class_")]:
        shown, wanted = ", ".join(unnamed), " ".join(["NAME"] * len(unnamed))
        plan.unsure.append(
            f"The files do not name the classes: rename {shown} in the card, or plan again with --classes {wanted}"
        )
    if given is None and found.is_flat and 0 in ids and len(ids) > 2:
        share = values[0] / sum(values.values())
        plan.unsure.append(
            f"Is mask value 0 ({share:.0%} of the pixels) a background to learn, or unlabelled? If unlabelled, plan "
            "again with --ignore 0."
        )
    return {}


def _far(values: Mapping[int, int]) -> int | None:
    """Return the mask value 255 if it is far from all others, and so may stand for unlabelled pixels."""
    far = IGNORED in values and set(values) != {0, IGNORED} and max({*values} - {IGNORED}) < 200
    return IGNORED if far else None


def _entry(name: str, value: int | None = None) -> dict[str, Any]:
    return {"name": name, "colour": [], **({} if value is None else {"id": value})}


def coloured(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return classes with the colours of their names."""
    colours = colours_of([entry["name"] for entry in entries])
    return [{**entry, "colour": list(colour)} for entry, colour in zip(entries, colours, strict=True)]


def _polygon_classes(plan: Plan, found: Survey) -> dict[str, Any]:
    """Choose a class for every value of the polygons' attribute; return what they add to the layout."""
    background = _entry("background")
    if found.attribute is None:
        plan.card["classes"] = Choice(coloured([background, _entry("object")]), "no attribute tells kinds of polygons")
        plan.unsure.append(
            "All polygons are of one class, object, as no attribute tells more: rename it in the card, or plan again "
            "with --classes NAME; or set layout.attribute."
        )
        return {}
    names = [name for name in kinds(found.polygons) if name != "background"]
    told = ", ".join(f"{name}: {found.polygons[name]}" for name in names)
    entries = [background]
    for name in names:
        number = {"name": f"class_{name}", "values": int(name)} if name.lstrip("-").isdecimal() else {}
        entries.append({**_entry(name), **number})
    reason = f"polygons by {found.attribute}: {told}; where they overlap, the later wins"
    plan.card["classes"] = Choice(coloured(entries), reason)
    plan.unsure.append(f"Is {found.attribute} the attribute that tells the class of a polygon? It has {told}.")
    if not found.polygons[""]:
        return {"attribute": found.attribute}
    plan.unsure.append(
        f"{found.polygons['']} polygons have no {found.attribute}: their pixels are neither trained on nor scored. "
        "Set layout.others: skip to make them background."
    )
    return {"attribute": found.attribute, "others": "ignore"}


def _coloured_classes(plan: Plan, found: Survey) -> None:
    black = (0, 0, 0)
    colours = sorted(found.colours, key=lambda colour: (colour != black, -found.colours[colour]))
    entries = [
        {"name": "background" if colour == black else f"class_{k}", "colour": list(colour)}
        for k, colour in enumerate(colours, start=0 if colours[0] == black else 1)
    ]
    plan.card["classes"] = Choice(entries, f"the colours in {found.masks} of {found.cases} masks")
    if colours[0] != black:
        plan.card["background"] = Choice(None, "no pixel is black, so every class counts")
    plan.unsure.append("Masks store colours: name the classes in the card by their colours.")


def _normalisation(plan: Plan, found: Survey) -> None:
    if _is_ct(found):
        chosen = Choice({"foreground": True}, "CT: window, mean and std are measured under the training masks")
    elif found.kind in ("volume", "array"):
        chosen = Choice({"per_image": True}, "intensities that are not comparable between scans: each slice by itself")
    else:
        chosen = Choice({"measured": True}, "mean and std per channel are measured on the training images")
    plan.card["normalisation"] = chosen


def _geometry(plan: Plan, found: Survey) -> None:
    plan.card["plane"] = Choice("acquired", "slices along the coarsest axis of each volume")
    if not found.spacings:
        return
    steps = [median(axis) for axis in zip(*found.spacings, strict=True)]
    told = f"median spacing {steps[0]:.3g} x {steps[1]:.3g} x {steps[2]:.3g} mm (slices, rows, columns)"
    pixels = [max(spacing[1:]) for spacing in found.spacings]
    if max(pixels) > EVEN * min(pixels):
        reason = f"{told}, pixels from {min(pixels):.3g} to {max(pixels):.3g} mm: slices are resampled to one size"
        plan.card["spacing_mm"] = Choice([None, "median", "median"], reason)
    if steps[0] <= FLAT * max(steps[1:]) and median(shape[0] for shape in found.shapes) > 2:
        plan.data["context"] = Choice(1, f"{told}: the neighbouring slices help (2.5-D)")
    else:
        plan.data["context"] = Choice(0, f"{told}: slices are too far apart to help each other")


def _splits(plan: Plan, layout: dict[str, Any], found: Survey) -> None:
    if "(?P<split>" in "".join(layout.get("patterns", ())):
        plan.card["splits"] = Choice({"seed": 0, "val": 0, "test": 0}, "the folders define the splits")
        return
    if found.kind == "scene" and found.cases < FEWEST:
        reason = f"{found.cases} scenes are too few to divide: blocks of each, apart by a gap, drawn once from the seed"
        plan.card["splits"] = Choice({"seed": 0, **BLOCKS}, reason)
        return
    unit = "scene" if found.kind == "scene" else "patient"
    plan.card["splits"] = Choice(FRACTIONS, f"drawn once from the seed, by {unit}")
    if found.cases < FEW:
        plan.unsure.append(f"There are {found.cases} cases: scores of so few say little. Think of a cross-validation.")


def _samples(plan: Plan, found: Survey, device: str) -> None:
    """Choose crops and augmentation."""
    height, width = (median(axis) for axis in list(zip(*found.shapes, strict=True))[1:])
    if found.kind == "volume" and max(height, width) < SMALL:
        factor = min(2.0, int(4 * ENLARGED / max(height, width)) / 4)
        plan.data["resize"] = Choice(factor, f"slices of about {height:g} x {width:g} pixels are enlarged")
        height, width = height * factor, width * factor
    sides = [min(LARGEST[device], MULTIPLE * max(1, -(-int(side) // MULTIPLE))) for side in (height, width)]
    aerial = found.is_flat
    if aerial:
        sides = [min(sides)] * 2
    reason = f"slices of the network are about {height:.0f} x {width:.0f} pixels"
    plan.data["crop"] = Choice(sides, reason if not aerial else "square, as samples are turned by quarters")
    if aerial:
        plan.data["augment"] = Choice("aerial", "no direction is special from above")
    else:
        plan.data["augment"] = Choice("anatomy", "bodies have a left and a right")
    plan.data["intensity"] = Choice(0.5 if aerial else 1.0)
    total = sum(found.values.values())
    rare = [value for value, count in found.values.items() if count < RARE * total]
    if rare and (aerial or min(sides) < min(height, width)):
        plan.data["balance"] = Choice(
            0.33,
            f"mask values {', '.join(map(str, sorted(rare)))} are rare: a third of the crops is drawn around a class",
        )
    plan.data["num_workers"] = Choice(
        0 if device == "cpu" else 4, "workers would take time from the network" if device == "cpu" else ""
    )

"""The schema of a data spec as files hold it: what each key may be, and what must agree with what.

Every spec passes through :func:`require_valid`: of checkpoints, Hub folders and exported files, and by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlla_seg.data.formats.gaps import RULES
from mlla_seg.data.formats.names import require_name
from mlla_seg.data.formats.planes import ACQUIRED, PLANES
from mlla_seg.data.rules import (
    Rule,
    above,
    any_number,
    either,
    flag,
    list_of,
    number,
    one_of,
    optional,
    require,
    shown,
    text,
    whole,
)
from mlla_seg.data.slices import AXES, RESCALE, ZSCORE
from mlla_seg.errors import InputError, about, lookup

VERSION = 2
"""Version of the plain dict. Version 1 (mlla_seg 0.1) has no number and names the patch size ``window``."""
MOST_CLASSES = 255
LARGEST_ID = 2**16 - 1
LARGEST_SIDE = 2**15
"""Largest side in pixels of training samples and resized slices."""
MOST_NEIGHBOURS = 100

_name = Rule(text, "a name")
_size = list_of(whole(1, LARGEST_SIDE), 2, 2)
_patch = Rule(
    optional(list_of(whole(1, LARGEST_SIDE), 2, 3)),
    f"[height, width] in pixels or [slices, height, width] in voxels, each from 1 to {LARGEST_SIDE}, or null",
)
_names = Rule(list_of(text), "a list of names")
_window = list_of(number, 2, 2)
_planes = (*PLANES, ACQUIRED)

SPEC = {
    "spec_version": Rule(whole(1, VERSION), f"a whole number up to {VERSION}"),
    "channels": _names,
    "classes": Rule(list_of(lambda _: True, 1, MOST_CLASSES), f"a list of up to {MOST_CLASSES} classes"),
    "name": _name,
    "modality": _name,
    "bands": _names,
    "background": Rule(optional(whole(0, MOST_CLASSES)), "the position of a class, or null"),
    "normalisation": Rule(optional(lambda value: isinstance(value, Mapping)), "keys such as mean and std"),
    "plane": Rule(one_of(_planes), f"one of {', '.join(_planes)}", _planes),
    "array_units": Rule(
        optional(lambda value: isinstance(value, Mapping) and all(map(number, value.values()))),
        "{scale: a number, offset: a number} or null",
    ),
    "spacing_mm": Rule(
        optional(list_of(optional(above(0)), 3, 3)), "[slices, rows, columns] in mm, each above zero or null"
    ),
    "resize": Rule(
        optional(either(_size, above(0, 100))),
        f"[height, width] in pixels, each from 1 to {LARGEST_SIDE}, a factor up to 100, or null",
    ),
    "patch_size": _patch,
    "context": Rule(whole(0, MOST_NEIGHBOURS), f"a whole number of slices from 0 to {MOST_NEIGHBOURS}"),
    "mirrored": Rule(either(flag, list_of(one_of(AXES))), f"a list of axes: {', '.join(AXES)}"),
    "nodata": Rule(optional(any_number), "a number or null"),
    "nodata_rule": Rule(optional(one_of(RULES)), f"{' or '.join(RULES)}, or null", tuple(RULES)),
    "grid": Rule(optional(text), "the name of a channel, or null"),
    "regions": Rule(optional(list_of(lambda _: True)), "a list of regions"),  # see read_regions
    "postprocessing": Rule(optional(list_of(lambda _: True)), "a list of steps"),  # see read_steps
    "window": _patch,
    "ignore_index": Rule(optional(any_number), "a number or null"),  # of version 1; never used
}
"""Keys of a spec; the last two are of version 1."""
NORMALISATION = {
    "mean": Rule(either(number, list_of(number, 1)), "a number, or one per channel"),
    "std": Rule(either(above(0), list_of(above(0), 1)), "a number above zero, or one per channel"),
    "window": Rule(optional(either(_window, list_of(optional(_window), 1))), "[low, high], one per channel, or null"),
    "per_image": Rule(flag, "true or false"),
    "per_case": Rule(
        either(flag, list_of(optional(one_of((ZSCORE, RESCALE))), 1)),
        f"true, false, or {ZSCORE}, {RESCALE} or null for each channel",
    ),
}
CLASS = {
    "name": _name,
    "colour": Rule(optional(list_of(whole(0, 255), 3, 3)), "[red, green, blue], each from 0 to 255"),
    "id": Rule(whole(0, LARGEST_ID), f"a whole number from 0 to {LARGEST_ID}"),
    "code": Rule(optional(lambda value: isinstance(value, Mapping)), "{value: ..., meaning: ...}"),
}
_code = Rule(either(text, number), "a text")
CODE = {"value": _code, "meaning": _code, "scheme": _code}
BY_HAND = '{"channels": ["CT"], "classes": ["background", "liver"]}'


def require_valid(content: Any, where: str) -> None:
    """Check a plain spec, apart from its regions.

    Raises:
        InputError: A key is missing or unknown, a value is not allowed or contradicts another, or the spec was written
            by a newer version.
    """
    if isinstance(content, Mapping) and whole(VERSION + 1, 10**6)(version := content.get("spec_version")):
        raise InputError(
            f"{where}: was written by a newer version of mlla_seg (spec_version {version}, this one reads up to "
            f"{VERSION}). Install a newer mlla_seg."
        )
    if isinstance(content, Mapping) and (missing := [key for key in ("channels", "classes") if not content.get(key)]):
        for key in content:
            lookup(SPEC, key, f"key in {where}:")
        raise InputError(
            f"{where}: lacks {' and '.join(missing)}. Give at least the names of channels and classes, such as "
            f"{BY_HAND}."
        )
    require(content, SPEC, where, "spec" if not isinstance(content, Mapping) else "")
    patch_size, mirrored = content.get("patch_size", content.get("window")), content.get("mirrored")
    if isinstance(mirrored, (list, tuple)) and AXES[0] in mirrored and len(patch_size or ()) != len(AXES):
        raise InputError(
            f"{where}: mirrored is {shown(mirrored)}, but {AXES[0]} are an axis of patches of volumes only."
        )
    _require_classes(content, where)
    _require_channels(content, where)


def _require_classes(content: Mapping[str, Any], where: str) -> None:
    """Check the classes of a spec, and that each has a name and an id of its own."""
    classes = content["classes"]
    for k, entry in enumerate(classes):
        _require_class(entry, k, where)
    names = [entry if isinstance(entry, str) else entry["name"] for entry in classes]
    with about(where):
        for kind, given in (("class", names), ("channel", content["channels"])):
            for k, name in enumerate(given):
                require_name(name, f"the name of {kind} {k}")
    ids = [k if isinstance(entry, str) else entry.get("id", k) for k, entry in enumerate(classes)]
    for what, values in (("names", names), ("ids", ids)):
        if repeated := [value for value in values if values.count(value) > 1]:
            raise InputError(f"{where}: {what} of classes repeat: {shown(repeated[0])}. Each class needs its own.")
    if (background := content.get("background")) is not None and background >= len(classes):
        raise InputError(f"{where}: background is {background}, expected a position among {len(classes)} classes.")


def _require_channels(content: Mapping[str, Any], where: str) -> None:
    """Check that what a spec says about channels agrees."""
    channels = content["channels"]
    bands = content.get("bands") or channels
    if absent := [name for name in channels if name not in bands]:
        raise InputError(f"{where}: channels lists {shown(absent[0])}, which is not among bands {shown(bands)}.")
    if content.get("grid") is not None:
        lookup(dict.fromkeys(bands), content["grid"], f"channel for grid in {where}:")
    for key in content.get("array_units") or {}:
        lookup({"scale": 1, "offset": 0}, key, f"key of array_units in {where}:")
    require_normalisation(content.get("normalisation") or {}, where, len(channels))


def require_normalisation(content: Any, where: str, channels: int | None = None) -> None:
    """Check a plain normalisation; ``channels`` is the number of channels, if it is known.

    Raises:
        InputError: A key is unknown, a value is not allowed, or there is not one value per channel.
    """
    require(content, NORMALISATION, where, "normalisation")
    windows = content.get("window")
    each = [] if windows is None else [windows] if _window(windows) else [pair for pair in windows if pair is not None]
    if reversed_ := [pair for pair in each if pair[0] > pair[1]]:
        raise InputError(f"{where}: window of normalisation is {shown(list(reversed_[0]))}, expected low before high.")
    per_channel = {key: value for key, value in content.items() if isinstance(value, (list, tuple))}
    if each and windows is each[0]:
        del per_channel["window"]  # one for all channels
    for key, value in per_channel.items():
        if channels is not None and len(value) != channels:
            raise InputError(
                f"{where}: {key} of normalisation has {len(value)} values, expected {channels}, one per channel."
            )


def _require_class(entry: Any, k: int, where: str) -> None:
    if text(entry):
        return
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise InputError(f"{where}: class {k} has no name, found {shown(entry)}.")
    require(entry, CLASS, where, f"class {k}")
    if (code := entry.get("code")) is not None:
        require(code, CODE, where, f"the code of {entry['name']}")
        if not {"value", "meaning"} <= set(code):
            raise InputError(
                f"{where}: the code of {entry['name']} is {shown(code)}, expected {{value: ..., meaning: ...}}."
            )


def require_same_shape(
    outputs: Sequence[str], in_channels: int, network: tuple[int | None, int | None], where: object
) -> None:
    """Check that a spec describes the network it comes with.

    Args:
        outputs: Names of the outputs in the spec.
        in_channels: Input channels in the spec, with those of neighbouring slices.
        network: Input channels and outputs of the network; None if it does not say.
        where: File name for messages.

    Raises:
        InputError: The numbers differ.
    """
    takes, gives = network
    if takes not in (None, in_channels):
        raise InputError(
            f"{where}: its spec has {in_channels} input channels (with neighbouring slices), but its network takes "
            f"{takes}. The two are not from one training."
        )
    if gives not in (None, len(outputs)):
        raise InputError(
            f"{where}: its spec has {len(outputs)} classes or regions, but its network gives {gives}. The two are not "
            "from one training."
        )

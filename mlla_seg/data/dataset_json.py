"""``dataset.json`` of nnU-Net, in either version, and of the Medical Segmentation Decathlon, checked key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlla_seg.data.formats.names import require_name
from mlla_seg.data.formats.registry import READERS
from mlla_seg.data.nnunet_regions import IGNORE, is_id, names_in, regions_in
from mlla_seg.data.spec_rules import LARGEST_ID
from mlla_seg.data.tree import stem_of
from mlla_seg.errors import InputError, about
from mlla_seg.texts import read_json

BACKGROUND = "background"
USUAL_ENDING = ".nii.gz"
"""Ending of the files of the first version and the Decathlon, which do not give it."""


@dataclass(frozen=True)
class Description:
    """Content of a ``dataset.json``."""

    path: Path
    name: str
    channels: tuple[str, ...]
    """Names of the channels, in order, which may repeat; empty if it gives none."""
    labels: dict[int, str]
    """Names of the classes by id, without the one to ignore; with regions, of what they hold together."""
    ignore: int | None
    """Id of the label to ignore, if it declares one."""
    ending: str | None
    """Ending of all files, if it gives one."""
    count: Any
    """Number of training cases as given; only compared."""
    cases: frozenset[str]
    """Names of the training cases, if it lists any: ``training`` of the Decathlon, ``dataset`` of nnU-Net."""
    source: str
    licence: str
    regions: dict[str, list[int]]
    """Ids by name of the region; empty if every label has one id."""
    order: tuple[int, ...]
    """Ids that the regions write, in order."""


def read_description(path: Path) -> Description:
    """Read and check a ``dataset.json``; unknown keys are left to other programs.

    Raises:
        InputError: It cannot be read, or a key has a wrong type; says what was found and what was expected.
    """
    content = _read(path)
    regions = regions_in(content, path)
    labels, ignore = _labels(content, path, bool(regions))
    return Description(
        path,
        name=str(content.get("name") or path.absolute().parent.name),
        channels=_channels(content, path),
        labels=labels,
        ignore=ignore,
        ending=_ending(content, path),
        count=content.get("numTraining"),
        cases=_cases(content),
        source=str(content.get("reference") or content.get("source") or "the creator of dataset.json"),
        licence=str(content.get("licence") or content.get("license") or "not stated"),
        regions=regions,
        order=tuple(content["regions_class_order"]) if regions else (),
    )


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise InputError(
            f"{path} should be a mapping with labels, as in nnU-Net and the Decathlon, such as "
            '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}.'
        )
    return content


def _channels(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    key = "channel_names" if "channel_names" in content else "modality"
    channels = content.get(key, {})
    fits = isinstance(channels, dict) and all(isinstance(name, str) for name in channels.values())
    if not fits or {str(number) for number in channels} != {str(k) for k in range(len(channels))}:
        raise InputError(
            f"{path}: {key} is {channels!r}; expected numbers (from 0) mapped to names, such as {{'0': 'CT'}}."
        )
    with about(path):
        return tuple(require_name(channels[str(k)], "the channel") for k in range(len(channels)))


def _ending(content: Mapping[str, Any], path: Path) -> str | None:
    ending = content.get("file_ending")
    if ending is not None and (not isinstance(ending, str) or ending.lower() not in READERS):
        known = ", ".join(suffix for suffix in READERS if suffix.startswith("."))
        raise InputError(f"{path}: file_ending is {ending!r}; expected one of {known}.")
    return ending


def _cases(content: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the training cases that are listed; empty if none is."""
    listed, files = content.get("dataset"), content.get("training")
    if isinstance(listed, dict):
        return frozenset(map(str, listed))
    labels = [entry.get("label") for entry in files if isinstance(entry, dict)] if isinstance(files, list) else []
    return frozenset(stem_of(label.replace("\\", "/").rpartition("/")[2]) for label in labels if isinstance(label, str))


def _labels(content: Mapping[str, Any], path: Path, has_regions: bool) -> tuple[dict[int, str], int | None]:
    """Return class names by id, from either convention: id -> name (v1, MSD) or name -> id (v2); and the id to ignore.

    Raises:
        InputError: An id is no whole number or given twice.
    """
    labels = {key: value[0] if _is_single(value) else value for key, value in content["labels"].items()}
    by_id = bool(labels) and all(is_id(key) for key in labels)
    found = names_in(content, regions_in(content, path)) if has_regions else {}
    ignore = None
    for key, value in labels.items():
        name, number = (value, key) if by_id else (key, value)
        if has_regions and name != IGNORE:
            continue
        if not isinstance(name, str) or not is_id(number):
            raise InputError(
                f"{path}: labels has {key!r}: {value!r}; expected a name with its id, a whole number from 0 to "
                f"{LARGEST_ID}, such as 'liver': 1."
            )
        if int(number) in (*found, ignore):
            raise InputError(f"{path}: two labels have the id {int(number)}, one of them {name}. Each needs its own.")
        if name == IGNORE:
            ignore = int(number)
        else:
            with about(path):
                found[int(number)] = require_name(name, "the label")
    if found.get(0, BACKGROUND) != BACKGROUND and BACKGROUND in found.values():
        raise InputError(f"{path}: labels give {found[0]!r} the id 0, which is that of the background. Number it so.")
    if not has_regions and (repeated := [name for name in found.values() if list(found.values()).count(name) > 1]):
        raise InputError(f"{path}: two labels have the name {repeated[0]}. Each needs its own.")
    return dict(sorted(found.items())), ignore


def _is_single(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1

"""nnU-Net raw folders and Medical Segmentation Decathlon tasks: ``dataset.json``, with a card or instead of one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import CardClass, CardNormalisation, CardSplits, Layout
from mlla_seg.data.cases import Case, missing_data, note_unlabelled
from mlla_seg.data.dataspec import class_colour
from mlla_seg.data.nnunet_regions import classes_of, names_in, regions_in
from mlla_seg.errors import InputError

TREE = """dataset.json
imagesTr/case_0000.nii.gz ...    (channels _0000, _0001, ..., or as the fourth axis of case.nii.gz)
labelsTr/case.nii.gz ...
"""
SPLITS = CardSplits(seed=0, val=0.1, test=0.2)
"""Default splits, drawn once: test labels of challenges are rarely public."""


def nnunet_card(root: Path) -> Card:
    """Build a card from a folder's ``dataset.json``.

    As in nnU-Net, CT is clipped and standardised by statistics of the labelled voxels of the training cases, anything
    else image by image. Slices run along the coarsest axis of each volume and are resampled to the median pixel spacing
    of all.

    Raises:
        InputError: The folder or its ``dataset.json`` is missing or cannot be used.
    """
    path = root / "dataset.json"
    if not path.is_file():
        raise InputError(
            f"Without --data.card the data are described by {path.absolute()}, which does not exist. "
            "Give the name of a card, or the root of an nnU-Net or Decathlon folder."
        )
    content = _read(path)
    labels = _labels(content, path)
    channels = content.get("channel_names") or content.get("modality") or {}
    if not all(str(key).isdigit() for key in channels):
        raise InputError(
            f"{path}: channel_names are {channels}; expected numbers (from 0) mapped to names, such as {{'0': 'CT'}}."
        )
    names = [str(channels[key]) for key in sorted(channels, key=int)]
    if not names or len(labels) < 2:
        raise InputError(f"{path}: needs channel_names (or modality) and at least two labels.")
    regions, order = regions_in(content, path), tuple(content.get("regions_class_order") or ())
    is_ct = names == ["CT"]
    name = str(content.get("name") or root.absolute().name)
    return Card(
        name=re.sub(r"[^\w-]+", "_", name).strip("_").lower(),
        title=name,
        modality=names[0],
        channels=tuple(names),
        classes=classes_of(labels, order)
        if regions
        else tuple(CardClass(label, class_colour(k), value) for k, (value, label) in enumerate(labels.items())),
        normalisation=CardNormalisation(foreground=True) if is_ct else CardNormalisation(per_image=True),
        layout=Layout(format="nnunet", tree=TREE),
        splits=SPLITS,
        source=str(content.get("reference") or content.get("source") or "the creator of dataset.json"),
        licence=str(content.get("licence") or content.get("license") or "not stated"),
        folder=root,
        ignore_index=_ignored(content),
        background=labels.get(0),
        plane="acquired",
        spacing_mm=(None, "median", "median"),
        regions={name: tuple(ids) for name, ids in regions.items()} or None,
        regions_class_order=order if regions else None,
    )


def nnunet_cases(card: Card, root: Path) -> list[Case]:
    """Find the cases of ``imagesTr`` and ``labelsTr``; the classes of ``dataset.json`` must be the card's."""
    path = root / "dataset.json"
    if not path.is_file():
        raise InputError(missing_data(card, root, "has no dataset.json"))
    content = _read(path)
    listed = {value: name.lower() for value, name in _labels(content, path).items()}
    expected = {value: card.class_names[k].lower() for value, k in card.ids.items()}
    if listed != expected and not (regions_in(content, path) and set(listed) == set(expected)):  # these name no ids
        raise InputError(
            f"{path} lists the classes {', '.join(f'{value} {name}' for value, name in listed.items()) or 'none'}; the "
            f"card {card.name} expects {', '.join(f'{value} {card.class_names[k]}' for value, k in card.ids.items())}."
        )
    ending = content.get("file_ending", ".nii.gz")
    cases = []
    for mask in sorted((root / "labelsTr").glob(f"[!.]*{ending}")):
        name = mask.name[: -len(ending)]
        channels = sorted((root / "imagesTr").glob(f"{_glob_escape(name)}_[0-9][0-9][0-9][0-9]{ending}"))
        images = tuple(channels) or (root / "imagesTr" / mask.name,)
        if not images[0].is_file():
            raise InputError(f"{mask} has no image: expected {images[0]} or {name}_0000{ending} beside it.")
        numbers = [int(path.name[len(name) + 1 :][:4]) for path in channels]
        if numbers != list(range(len(numbers))):
            raise InputError(f"{images[0]}: the channels of {name} are {numbers}, expected consecutive numbers from 0.")
        cases.append(Case(name, _patient(card, name), (images,), (mask,)))
    known = {path.name for case in cases for files in case.images for path in files}
    present = (root / "imagesTr").glob(f"[!.]*{ending}")
    note_unlabelled(sorted(path.name for path in present if path.name not in known), "imagesTr")
    return cases


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise InputError(f"{path} should be a mapping with labels, as in nnU-Net and the Decathlon.")
    return content


def _labels(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Return class names by id, from either convention: id -> name (v1, MSD) or name -> id or ids (v2)."""
    labels = content["labels"]
    if all(str(key).isdigit() for key in labels):
        return dict(sorted((int(key), str(value)) for key, value in labels.items()))
    if regions := regions_in(content, path):
        return names_in(content, regions)
    single = {key: value[0] if isinstance(value, list) else value for key, value in labels.items() if key != "ignore"}
    return dict(sorted((int(value), str(key)) for key, value in single.items()))


def _ignored(content: Mapping[str, Any]) -> int:
    value = content["labels"].get("ignore", 255)
    return int(value) if str(value).isdigit() else 255


def _patient(card: Card, name: str) -> str:
    """Return the patient of a case: the match of the card's expression ``patient`` in its name, or the name."""
    match = re.search(card.layout.patient or "$^", name)
    return match[0] if match else name


def _glob_escape(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)

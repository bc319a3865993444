"""From a folder to cases: which files belong together, and which case is in which split.

Two formats cover what is around: ``files`` (a card's regular expressions find cases among arrays or images) and
``nnunet`` (nnU-Net raw folders and the Medical Segmentation Decathlon, described by their ``dataset.json``).
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlla_seg.data.spec import SPLITS, Card
from mlla_seg.errors import InputError

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Case:
    """One volume or image: the unit that is split, evaluated and predicted."""

    name: str
    patient: str
    images: tuple[tuple[Path, ...], ...]
    """Files of the image: one entry per slice in order (or one for a whole volume), each with one file per channel."""
    masks: tuple[Path, ...] = ()
    """Files of the mask, one per entry of ``images``; empty where image and mask lie in the same file."""
    split: str | None = None
    """The split that the file's own place says, where it says one."""

    @property
    def files(self) -> list[Path]:
        return [path for entry in self.images for path in entry] + list(self.masks)


def find_cases(card: Card, root: Path) -> list[Case]:
    """All cases of a data set below ``root``, sorted by name.

    Raises:
        InputError: The folder is missing or holds nothing of the layout; says where to get the data and how it lies.
    """
    if not root.is_dir():
        raise InputError(_missing(card, root, "does not exist"))
    cases = _nnunet_cases(card, root) if card.layout["format"] == "nnunet" else _pattern_cases(card, root)
    if not cases:
        raise InputError(_missing(card, root, "holds no file of the expected layout"))
    return sorted(cases, key=lambda case: case.name)


def _missing(card: Card, root: Path, problem: str) -> str:
    tree = "\n".join(f"    {line}" for line in card.layout["tree"].rstrip().splitlines())
    return (
        f"{card.title}: the folder {root.absolute()} {problem}.\n"
        f"  Get it from: {card.source}\n  Licence: {card.licence}\n"
        f"  Expected there (or in another folder given as --data.root):\n{tree}"
    )


def _pattern_cases(card: Card, root: Path) -> list[Case]:
    """Cases by the card's regular expressions over paths relative to ``root``.

    Groups: ``case`` (name of the case), ``patient`` (unit of the split, by default the case), ``slice`` (index of a
    slice in its volume), ``split`` (train, valid or test, where the folder says it). Earlier patterns win: a volume
    found by the first is not assembled again from slices found by the second.
    """
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    found: dict[str, Case] = {}
    for pattern in card.layout["patterns"]:
        slices: dict[str, list[tuple[int, Path, dict[str, str]]]] = defaultdict(list)
        for name in files:
            if match := re.fullmatch(pattern, name):
                groups = {key: value for key, value in match.groupdict().items() if value is not None}
                slices[groups["case"].replace("/", "_")].append((int(groups.get("slice", 0)), root / name, groups))
        for name, entries in slices.items():
            if name in found:
                continue
            entries.sort(key=lambda entry: entry[0])
            indices = [index for index, _, _ in entries]
            if indices != list(range(indices[0], indices[0] + len(indices))):
                absent = sorted(set(range(indices[0], indices[-1])) - set(indices)) or "some twice"
                raise InputError(
                    f"{entries[0][1].parent}: the slices of {name} are not consecutive (missing: {absent})."
                )
            groups = entries[0][2]
            folders = sorted({entry_groups["split"] for _, _, entry_groups in entries if "split" in entry_groups})
            if len(folders) > 1:
                raise InputError(
                    f"{root}: the slices of {name} lie in {' and '.join(folders)}; a case is in one split."
                )
            split = SPLIT_FOLDERS[groups["split"].lower()] if "split" in groups else None
            images = tuple((path,) for _, path, _ in entries)
            found[name] = Case(name, groups.get("patient", name), images, split=split)
    return list(found.values())


def _nnunet_cases(card: Card, root: Path) -> list[Case]:
    """Cases of ``imagesTr`` and ``labelsTr``; the classes of ``dataset.json`` must be the card's."""
    description = root / "dataset.json"
    if not description.is_file():
        raise InputError(_missing(card, root, "has no dataset.json"))
    try:
        content = json.loads(description.read_text())
    except ValueError as error:
        raise InputError(f"{description} is not valid JSON ({error}).") from error
    labels = content.get("labels", {})
    if regions := [str(key) for key, value in labels.items() if isinstance(value, list)]:
        raise InputError(
            f"{description} defines regions of several ids ({', '.join(regions)}); "
            f"the card {card.name} expects {', '.join(card.class_names)}, each with one id."
        )
    names = _label_names(labels)
    if [name.lower() for name in names] != [name.lower() for name in card.class_names]:
        raise InputError(
            f"{description} lists the classes {', '.join(names) or 'none'}; "
            f"the card {card.name} expects {', '.join(card.class_names)}."
        )
    ending = content.get("file_ending", ".nii.gz")
    cases = []
    for mask in sorted((root / "labelsTr").glob(f"[!.]*{ending}")):
        name = mask.name[: -len(ending)]
        channels = sorted((root / "imagesTr").glob(f"{_glob_escape(name)}_[0-9][0-9][0-9][0-9]{ending}"))
        images = tuple(channels) or (root / "imagesTr" / mask.name,)
        if not images[0].is_file():
            raise InputError(f"{mask} has no image: expected {images[0]} or {name}_0000{ending} beside it.")
        cases.append(Case(name, name, (images,), (mask,)))
    known = {path.name for case in cases for files in case.images for path in files}
    unlabelled = sorted(path.name for path in (root / "imagesTr").glob(f"[!.]*{ending}") if path.name not in known)
    if unlabelled:
        shown = ", ".join(unlabelled[:5]) + (", ..." if len(unlabelled) > 5 else "")
        print(f"note: {len(unlabelled)} files of imagesTr have no label and are left out: {shown}", file=sys.stderr)
    return cases


def _glob_escape(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _label_names(labels: dict[str, Any]) -> list[str]:
    """Class names in order of their ids, from either direction in use: id -> name (v1, MSD) or name -> id (v2)."""
    if all(str(key).isdigit() for key in labels):
        pairs = [(int(key), str(value)) for key, value in labels.items()]
    else:
        pairs = [(int(value), str(key)) for key, value in labels.items() if key != "ignore"]
    return [name for _, name in sorted(pairs)]


@dataclass
class Splits:
    """Cases by split; a patient is in one split only."""

    train: list[Case] = field(default_factory=list)
    val: list[Case] = field(default_factory=list)
    test: list[Case] = field(default_factory=list)


def split_cases(card: Card, cases: Iterable[Case]) -> Splits:
    """Distributes cases to train, val and test, by patient.

    The files' own place decides where the layout says it; else the card's lists of patients; else the card's fractions,
    drawn once from its seed over the sorted patients.

    Raises:
        InputError: A patient in two splits, or no case to train on.
    """
    cases = list(cases)
    if all(case.split for case in cases):
        patients: dict[str, set[str]] = {split: {c.patient for c in cases if c.split == split} for split in SPLITS}
    elif "seed" in card.splits:
        patients = _draw(sorted({case.patient for case in cases}), card.splits)
    else:
        patients = {split: _read_list(card.folder / file) for split, file in card.splits.items()}
        present = {case.patient for case in cases}
        for split, listed in patients.items():
            if absent := sorted(listed - present):
                shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
                print(
                    f"note: {len(absent)} of {len(listed)} patients of split {split} are not there: {shown}",
                    file=sys.stderr,
                )
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := sorted(patients.get(a, set()) & patients.get(b, set())):
            raise InputError(f"{card.name}: patient {shared[0]} is in both {a} and {b} ({len(shared)} such patients).")
    splits = Splits(*([case for case in cases if case.patient in patients.get(split, set())] for split in SPLITS))
    if not splits.train:
        raise InputError(
            f"{card.name}: {len(cases)} cases found, but none of them is in the training split of the card."
        )
    return splits


def _draw(patients: list[str], fractions: dict[str, Any]) -> dict[str, set[str]]:
    random.Random(fractions["seed"]).shuffle(patients)
    drawn = {}
    for split in ("test", "val"):
        fraction = fractions.get(split, 0)
        count = max(1, round(fraction * len(patients))) if fraction and len(patients) >= 3 else 0
        drawn[split] = count
    test, val = drawn["test"], drawn["val"]
    return {"test": set(patients[:test]), "val": set(patients[test : test + val]), "train": set(patients[test + val :])}


def _read_list(path: Path) -> set[str]:
    if not path.is_file():
        raise InputError(f"The card's split list {path} does not exist.")
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {line for line in lines if line}

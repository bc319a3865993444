"""Discovery of cases below a folder, and of the files that belong to each.

There are two formats: ``files`` (a card's regular expressions match files below a folder) and ``nnunet`` (see
``nnunet.py``).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path, PurePosixPath

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case, missing_data, note_unlabelled
from mlla_seg.data.formats.dicom_files import is_series
from mlla_seg.data.formats.registry import is_readable
from mlla_seg.data.nnunet import nnunet_cases
from mlla_seg.errors import InputError, lookup

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "va"), "val"),
    **dict.fromkeys(("test", "ts"), "test"),
}
"""Splits by the usual names of folders, unless the card sets ``split_folders``."""


def find_cases(card: Card, root: Path) -> list[Case]:
    """Find all cases of a data set below ``root``, sorted by name.

    Raises:
        InputError: The folder is missing or has no file of the layout; tells where to get the data and how to arrange
        them.
    """
    if not root.is_dir():
        raise InputError(missing_data(card, root, "does not exist"))
    cases = nnunet_cases(card, root) if card.layout.format == "nnunet" else _pattern_cases(card, root)
    if not cases:
        raise InputError(missing_data(card, root, "holds no file of the expected layout"))
    return sorted(cases, key=lambda case: case.name)


@dataclass(frozen=True)
class _Match:
    """A file that matches a pattern of the card."""

    path: Path
    groups: Mapping[str, str]

    @property
    def place(self) -> tuple[int, str]:
        """Slice and channel, by which the files of a case are sorted."""
        return int(self.groups.get("slice", 0)), self.groups.get("channel", "")


def _pattern_cases(card: Card, root: Path) -> list[Case]:
    """Find cases by the card's regular expressions for paths relative to ``root``.

    Groups: ``case`` (name of the case), ``patient`` (unit of the split, by default the case), ``slice`` (index of a
    slice in its volume), ``channel`` (sorts the files of one image), ``split`` (folder that determines the split).
    Earlier patterns take precedence: a volume found by the first is not assembled again from slices found by the
    second. Masks are in the image files, or at the template ``mask``; separate masks for testing are at ``test_mask``.
    """
    apart = bool(card.layout.mask)
    names = sorted(
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() or (apart and is_series(path))
    )
    found: dict[str, Case] = {}
    unlabelled = []
    for pattern in card.layout.patterns:
        matches: dict[str, list[_Match]] = defaultdict(list)
        for name in names:
            if match := re.fullmatch(pattern, name):
                groups = {key: value for key, value in match.groupdict().items() if value is not None}
                matches[groups["case"].replace("/", "_")].append(_Match(root / name, groups))
        for name, entries in matches.items():
            if name in found:
                continue
            case = _assemble(card, root, name, sorted(entries, key=lambda match: match.place))
            if all(path.exists() for path in (*case.masks, *case.test_masks)):
                found[name] = case
            else:
                unlabelled.append(entries[0].path.name)
    note_unlabelled(unlabelled, str(root))
    return list(found.values())


def _assemble(card: Card, root: Path, name: str, entries: Sequence[_Match]) -> Case:
    """Assemble a case from its files, sorted by slice and channel."""
    slices: dict[int, list[_Match]] = defaultdict(list)
    for match in entries:
        slices[match.place[0]].append(match)
    absent = sorted(set(range(min(slices), max(slices))) - set(slices))
    for files in slices.values():
        if len({match.place for match in files}) < len(files):
            raise InputError(
                f"{files[0].path}: has the same place in {name} as {files[1].path.name}; a case has one "
                "file per slice and channel. Change the group case of the card's pattern to distinguish them."
            )
    if absent:
        raise InputError(f"{entries[0].path.parent}: the slices of {name} are not consecutive (missing: {absent}).")
    folders = sorted({match.groups["split"] for match in entries if "split" in match.groups})
    if len(folders) > 1:
        raise InputError(f"{root}: the slices of {name} lie in {' and '.join(folders)}; a case must be in one split.")
    known = {key.lower(): split for key, split in (card.layout.split_folders or SPLIT_FOLDERS).items()}
    masks, test_masks = (
        tuple(_first_there(places, root, files[0]) for files in slices.values())
        if (places := card.layout.places(key))
        else ()
        for key in ("mask", "test_mask")
    )
    further = {
        files[0].path: tuple(_first_there([place], root, files[0]) for place in card.further.values())
        for files in slices.values()
    }
    for path, others in further.items():
        for channel, other in zip(card.further, others, strict=True):
            if not other.exists():
                raise InputError(f"{path}: its channel {channel} is missing, expected {other}.")
    return Case(
        name,
        patient=entries[0].groups.get("patient", name),
        images=tuple((*(match.path for match in files), *further[files[0].path]) for files in slices.values()),
        masks=masks,
        test_masks=test_masks,
        split=lookup(known, folders[0].lower(), f"split folder of {root}:") if folders else None,
    )


def _first_there(templates: Sequence[str], root: Path, match: _Match) -> Path:
    """Return the first existing file among the card's templates, or the first candidate if there is none.

    Raises:
        InputError: A template leads outside the root, or its ``*`` matches several files.
    """
    places = []
    for template in templates:
        name = PurePosixPath(template.format(**match.groups))
        if name.is_absolute() or ".." in name.parts:
            raise InputError(f"{match.path}: the card's template leads to {name}, outside {root}.")
        found = [root / name]
        if "*" in template:
            pattern = template.format(**{key: escape(value) for key, value in match.groups.items()})
            found = sorted(path for path in root.glob(pattern) if is_readable(path)) or found
        if len(found) > 1:
            raise InputError(f"{match.path}: both {found[0].name} and {found[1].name} match its mask; keep one.")
        places += found
    return next((path for path in places if path.exists()), places[0])

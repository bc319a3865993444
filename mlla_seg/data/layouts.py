"""Discovery of cases below a folder, and of the files that belong to each.

There are three formats: ``files`` (a card's regular expressions match files below a folder), ``nnunet`` (see
``nnunet.py``) and ``list`` (a table names the files, see ``listed.py``).
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath

from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import MASKS
from mlla_seg.data.cases import LONGEST, Case, missing_data
from mlla_seg.data.cohort import with_cohort
from mlla_seg.data.exclusion import with_exclusions
from mlla_seg.data.listed import listed_cases
from mlla_seg.data.nnunet import nnunet_cases
from mlla_seg.data.patients import with_patients
from mlla_seg.data.scribbles import with_scribbles
from mlla_seg.data.tree import Tree, filled, is_image, list_tree
from mlla_seg.data.unmatched import explain, masks_without_image, match_name, near_miss
from mlla_seg.errors import InputError, lookup
from mlla_seg.progress import note, note_files

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "va"), "val"),
    **dict.fromkeys(("test", "ts"), "test"),
}
"""Splits by the usual names of folders, unless the card sets ``split_folders``."""
NOTHING = "holds no file of the expected layout"


def find_cases(card: Card, root: Path) -> list[Case]:
    """Find all cases of a data set below ``root``, sorted by name.

    Raises:
        InputError: The folder is missing or has no file of the layout; tells where to get the data and how to arrange
        them.
    """
    if not root.is_dir():
        problem = "is a file" if root.is_file() else "is a link that leads nowhere" if root.is_symlink() else ""
        raise InputError(missing_data(card, root, problem or "does not exist"))
    if card.splits.mask is not None:
        cases = listed_cases(card, root)
    elif card.layout.format == "nnunet":
        cases = nnunet_cases(card, root)
        if not cases:
            raise InputError(missing_data(card, root, NOTHING))
    else:
        cases = _pattern_cases(card, root)
    names = [case.name for case in cases]
    if card.splits.patient is None or (card.layout.patient is not None and card.splits.mask is None):
        cases = with_patients(card, cases)
    if card.splits.csv is not None and card.splits.mask is None:
        cases = with_cohort(card, root, cases)
    cases = [replace(case, root=root) for case in with_exclusions(card, with_scribbles(card, root, cases), names)]
    return sorted(cases, key=lambda case: case.name)


@dataclass(frozen=True)
class _Match:
    """A file that matches a pattern of the card."""

    root: Path
    name: str
    groups: Mapping[str, str]

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def place(self) -> tuple[int, str]:
        """Slice and channel, by which the files of a case are sorted."""
        return int(self.groups.get("slice", 0)), self.groups.get("channel", "")


@dataclass
class _Account:
    """What became of the files below a folder."""

    images: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    """Masks and further channels."""
    unlabelled: dict[str, str] = field(default_factory=dict)
    """Images without a mask, each with the reason."""
    repeated: list[str] = field(default_factory=list)
    """Images of cases that an earlier pattern has found."""
    folders: set[str] = field(default_factory=set)
    """Folders of splits, in lower case."""


def _pattern_cases(card: Card, root: Path) -> list[Case]:
    """Find cases by the card's regular expressions for paths relative to ``root``.

    Groups: ``case`` (name of the case), ``patient`` (unit of the split, by default the case), ``slice`` (index of a
    slice in its volume), ``channel`` (sorts the files of one image), ``split`` (folder that determines the split).
    Earlier patterns take precedence: a volume found by the first is not assembled again from slices found by the
    second. Masks are in the image files, or at the template ``mask``; separate masks for testing are at ``test_mask``.
    """
    tree = list_tree(root, series=bool(card.layout.mask))
    account = _Account()
    found: dict[str, Case] = {}
    for pattern in card.layout.patterns:
        for name, entries in _matches(pattern, tree).items():
            account.images.update(entry.name for entry in entries)
            if name in found:
                account.repeated.append(entries[0].name)
                continue
            case = _assemble(card, tree, name, sorted(entries, key=lambda match: match.place), account)
            if case is not None:
                found[name] = case
    if not found:
        raise InputError(missing_data(card, root, NOTHING, explain(card.layout, tree, account.unlabelled)))
    _note_left_out(card, tree, account)
    return list(found.values())


def _matches(pattern: str, tree: Tree) -> dict[str, list[_Match]]:
    """Return the files that match a pattern by the names of their cases."""
    matches: dict[str, list[_Match]] = defaultdict(list)
    for name in tree.names:
        if match := match_name(pattern, name):
            if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):  # control characters, broken UTF-8
                shown = name.encode("utf-8", "surrogateescape")
                raise InputError(
                    f"{tree.root}: the name {str(shown)[1:]} holds a line break, another control character or bytes "
                    "that are not UTF-8. Rename the file, for instance with convmv or detox."
                )
            groups = {key: value for key, value in match.groupdict().items() if value is not None}
            case = groups["case"].replace("/", "_")
            if len(case.encode()) > LONGEST:
                raise InputError(
                    f"{tree.root / name}: the name of its case, {case[:40]}..., has more than {LONGEST} bytes, too "
                    "many for the files of the cache. Shorten the names of the file or its folders."
                )
            matches[case].append(_Match(tree.root, name, groups))
    return matches


def _note_left_out(card: Card, tree: Tree, account: _Account) -> None:
    """Note the files that are left out although they look like files of the card."""
    where = str(tree.root)
    note_files(tree.broken, where, "are links that lead nowhere")
    note_files(tree.special, where, "are pipes, sockets or devices and are skipped")
    note_files(
        [name for name in account.unlabelled if name not in account.others], where, "have no mask and are skipped"
    )
    note_files(
        account.repeated, where, "are skipped, as an earlier pattern of the card has found their cases in other files"
    )
    rest = [name for name in tree.names if name not in account.images and name not in account.others]
    masks = masks_without_image(card.layout, tree, rest)
    note_files(masks, where, "are masks without an image and are skipped")
    if unused := {key.lower() for key in card.layout.split_folders or {}} - account.folders:
        note(f"note: no file in {where} lies in a split folder {' or '.join(sorted(unused))}")
    above, alone = tree.root.absolute().name, set(rest) - set(masks)
    reasons = {name: near_miss(card.layout, name, above, most=1) for name in rest if name in alone and is_image(name)}
    if missed := [name for name, reason in reasons.items() if reason]:
        note(
            f"note: {len(missed)} files in {where} nearly fit the card's layout and are skipped, such as {missed[0]} "
            f"({reasons[missed[0]]})"
        )


def _assemble(card: Card, tree: Tree, name: str, entries: Sequence[_Match], account: _Account) -> Case | None:
    """Assemble a case from its files, sorted by slice and channel; none if it lacks a mask."""
    slices = _by_slice(name, entries)
    split = _split_of(card, tree, name, entries, account)
    places = card.scribbles.places if card.scribbles else ()
    scribbles = tuple(_first_there(places, tree, files[0], account) for files in slices.values() if places)
    if not all(map(os.path.exists, scribbles)):
        scribbles = ()
    masks: dict[str, tuple[Path, ...]] = {}
    for key in MASKS:
        places = card.layout.places(key)
        found = [(files[0], _first_there(places, tree, files[0], account)) for files in slices.values() if places]
        for match, path in found:
            if not os.path.exists(path):
                if key == "mask" and scribbles:  # from which it can be trained on
                    found = []
                    break
                account.unlabelled[match.name] = f"its {key} is missing, expected {path.relative_to(tree.root)}"
                return None
        masks[key] = tuple(path for _, path in found)
    further = {
        files[0].path: tuple(_first_there([place], tree, files[0], account) for place in card.further.values())
        for files in slices.values()
    }
    for path, others in further.items():
        for channel, other in zip(card.further, others, strict=True):
            if not os.path.exists(other):
                raise InputError(f"{path}: its channel {channel} is missing, expected {other}.")
    return Case(
        name,
        patient=entries[0].groups.get("patient", name),
        images=tuple((*(match.path for match in files), *further[files[0].path]) for files in slices.values()),
        masks=masks["mask"],
        test_masks=masks["test_mask"],
        scribbles=scribbles,
        split=split,
        areas=masks["area"],
    )


def _by_slice(name: str, entries: Sequence[_Match]) -> dict[int, list[_Match]]:
    """Return the files of a case by the number of their slice.

    Raises:
        InputError: Two files have the same place, or a slice is missing.
    """
    slices: dict[int, list[_Match]] = defaultdict(list)
    for match in entries:
        slices[match.place[0]].append(match)
    for files in slices.values():
        if len({match.place for match in files}) < len(files):
            raise InputError(
                f"{files[0].path}: has the same place in {name} as {files[1].name}; a case has one file per slice and "
                "channel. Rename or remove one of them, or distinguish them in the group case of the card's pattern."
            )
    absent = list(islice((k for k in range(min(slices), max(slices)) if k not in slices), 6))
    if absent:
        count = max(slices) - min(slices) + 1 - len(slices)
        missing = ", ".join(map(str, absent[:5])) + (f", ..., {count} in all" if len(absent) > 5 else "")
        raise InputError(f"{entries[0].path.parent}: the slices of {name} are not consecutive (missing: {missing}).")
    return slices


def _split_of(card: Card, tree: Tree, name: str, entries: Sequence[_Match], account: _Account) -> str | None:
    """Return the split that the folder of a case stands for, if the card's patterns have such a folder.

    Raises:
        InputError: The folder stands for no split, or files of the case lie in several.
    """
    folders = sorted({match.groups["split"] for match in entries if "split" in match.groups})
    if len(folders) > 1:
        raise InputError(
            f"{tree.root}: the slices of {name} lie in {' and '.join(folders)}; a case must be in one split."
        )
    known = {key.lower(): split for key, split in (card.layout.split_folders or SPLIT_FOLDERS).items()}
    account.folders.update(folder.lower() for folder in folders)
    return lookup(known, folders[0].lower(), f"split folder of {tree.root}:") if folders else None


def _first_there(templates: Sequence[str], tree: Tree, match: _Match, account: _Account) -> Path:
    """Return the first existing file among the card's templates, or the first candidate if there is none.

    Raises:
        InputError: A template leads outside the root, or several files match it.
    """
    places = []
    for template in templates:
        place = "*".join(filled(template, match.groups))
        name = PurePosixPath(place)
        if name.is_absolute() or ".." in name.parts:
            raise InputError(f"{match.path}: the card's template leads to {name}, outside {tree.root}.")
        found = [other for other in tree.matching(template, match.groups) if other != match.name]
        if len(found) > 1:
            raise InputError(f"{match.path}: both {found[0]} and {found[1]} match its mask; keep one.")
        account.others.update(found)
        places += [tree.root / other for other in found] or [tree.root / place]
    return next((path for path in places if os.path.exists(path)), places[0])

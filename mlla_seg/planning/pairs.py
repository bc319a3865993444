"""Recognition of images and their masks by their names alone, whatever the naming.

Masks are told by a word such as ``mask`` or ``labels`` in a folder or at an end of the name. What the names of images
and masks share is the case; images that share a case with the same mask are its channels.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product, takewhile

from mlla_seg.planning.names import ANY, Name, told_by_folders
from mlla_seg.planning.words import is_split, means_mask, tokens, without_split

ENOUGH = 0.5
"""Fraction of the masks for which an image must be found."""
Place = tuple[tuple[str, ...], str]
"""Folders, without the one that tells images from masks, and the part of the name that tells cases apart."""


@dataclass(frozen=True)
class Affix:
    """What stands around the case in the names of one kind of file."""

    folder: str | None
    """Name of the folder that tells images from masks, without its split; none if a part of the name does."""
    before: str
    after: str
    below: str = ""
    """What follows the folder that is named after the case, if one is; see ``Name.below``."""

    @property
    def starts_freely(self) -> bool:
        """Whether names below that folder share their end alone."""
        return ANY in self.below and not self.below.endswith(ANY)


@dataclass(frozen=True)
class Naming:
    """How images and masks are named: files by the place of their case."""

    depth: int | None
    """Level of the folder that tells images from masks; none if a part of the name does."""
    mask: Affix
    masks: Mapping[Place, Name]
    images: Mapping[Affix, Mapping[Place, Name]]
    """Images by channel; the first channel has an image for each of the others."""

    @property
    def pairs(self) -> int:
        return len(next(iter(self.images.values())))


def find_naming(
    names: Collection[Name], is_mask: Callable[[Name], bool] = lambda name: False, named: bool = True
) -> Naming | None:
    """Find the naming that pairs most masks with images.

    Args:
        names: Files below a folder.
        is_mask: Tells by the content whether a file is a mask; asked where no name says so.
        named: Whether names may say so.

    Returns:
        The naming, or None if no way of naming explains the files.
    """
    common = _common_folders(names)
    telling = [name for name in names if named and means_mask(name.whole[len(common) :])]
    found = list(_namings(names, telling, means_mask)) or _told_above(names, telling, means_mask)
    if not found:
        alike = [name for name in names if is_mask(name)]
        found = list(_namings(names, alike, says=None)) or _told_above(names, alike, says=None)
    # The most pairs, then the plainest name: 5_Labels_all rather than 5_Labels_all_noBoundary.
    found.sort(key=lambda naming: (-naming.pairs, len(_text(naming.mask))))
    return next(filter(_tells_cases, found), next(iter(found), None))


def _told_above(names: Collection[Name], masks: Collection[Name], says: Callable[[str], bool] | None) -> list[Naming]:
    """Return the namings in which folders tell the cases; see ``told_by_folders``."""
    known = set(masks)
    nested = told_by_folders([name for name in names if name not in known], masks)
    found = (naming for images, labels in nested for naming in _namings([*images, *labels], labels, says))
    return [naming for naming in found if naming.pairs >= ENOUGH * len(masks) and all(case for _, case in naming.masks)]


def _tells_cases(naming: Naming) -> bool:
    try:
        layout_of(naming)
    except ValueError:
        return False
    return True


def _common_folders(names: Collection[Name]) -> str:
    """Return the folders that all files lie in, with a slash after each; they tell nothing."""
    split = [name.whole.split("/")[:-1] for name in names]
    return "".join(f"{group[0]}/" for group in takewhile(_alike, zip(*split, strict=False)))


def _text(affix: Affix) -> str:
    return "".join(filter(None, (affix.folder, affix.before, affix.after)))


def _namings(names: Collection[Name], masks: Collection[Name], says: Callable[[str], bool] | None) -> Iterator[Naming]:
    """Yield a naming for every folder and every end of a name that tells masks from images.

    Without ``says``, any may do so, and so may the suffix alone.
    """
    known = set(masks)
    images = [name for name in names if name not in known]
    common = _common_folders(names).count("/")
    by_folder: dict[tuple[int, str, str], list[Name]] = defaultdict(list)
    by_end: dict[tuple[str, str, str], list[Name]] = defaultdict(list)
    for name in masks:
        levels = [k for k, folder in enumerate(name.folders) if k >= common and (says is None or says(folder))]
        folders = {(k, without_split(name.folders[k])[0], name.below) for k in levels}
        for place in folders:
            by_folder[place].append(name)
        if says is None or says(name.below):
            by_end["", "", name.below].append(name)
        if not folders:
            for ends in _ends(name.stem, says or (lambda text: True)):
                by_end[(*ends, name.below)].append(name)
    for (depth, folder, below), group in by_folder.items():
        ends = _common(group)
        yield from _joined(depth, Affix(folder, *ends, below), group, images)
        if len({name.folders[: depth + 1] for name in group}) == 1:  # a tree of their own, as derivatives of BIDS
            trees = [replace(name, joined=depth + 1) for name in group]
            yield from _joined(0, Affix(trees[0].folders[0], *ends, below), trees, images)
    for (before, after, below), group in by_end.items():
        yield from _joined(None, Affix(None, before, after, below), group, images)


def _ends(stem: str, says: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield the shortest start and the shortest end of a name that say that it is a mask."""
    parts = tokens(stem)
    starts = ("".join(parts[:k]) for k in range(1, len(parts) + 1))
    ends = ("".join(parts[k:]) for k in range(len(parts) - 1, -1, -1))
    if (start := next((text for text in starts if says(text)), None)) is not None:
        rest = stem[len(start) :]
        yield start + ("" if rest[:1].isalnum() else rest[: len(rest) - len(rest.lstrip("_-. "))]), ""
    if (end := next((text for text in ends if says(text)), None)) is not None and end != stem:
        rest = stem[: len(stem) - len(end)]
        yield "", rest[len(rest.rstrip("_-. ")) :] + end


def _common(names: Sequence[Name]) -> tuple[str, str]:
    """Return what all names start and end with, in whole tokens; nothing for a single name."""
    stems = {name.stem for name in names}
    if len(stems) == 1:
        return ("", "") if len(names) == 1 else (stems.pop(), "")
    split = [tokens(stem) for stem in stems]
    before = [group[0] for group in takewhile(_alike, zip(*split, strict=False))]
    rest = [parts[len(before) :] for parts in split]
    after = [group[0] for group in takewhile(_alike, zip(*(parts[::-1] for parts in rest), strict=False))]
    return "".join(before), "".join(after[::-1])


def _alike(group: Sequence[str]) -> bool:
    return len(set(group)) == 1


def _place(name: Name, depth: int | None) -> tuple[tuple[str, ...], str | None]:
    """Return the folders of a file without the one at ``depth``, of which only the split is kept, and that folder."""
    if depth is None or depth >= len(name.folders):
        return name.folders, None
    folder, split = without_split(name.folders[depth])
    return (*name.folders[:depth], split, *name.folders[depth + 1 :]), folder


def _joined(depth: int | None, mask: Affix, group: Sequence[Name], images: Sequence[Name]) -> Iterator[Naming]:
    """Yield the naming of masks with a given affix, if enough of them have an image."""
    masks: dict[Place, Name] = {}
    for name in group:
        core = name.stem[len(mask.before) : len(name.stem) - len(mask.after)]
        if masks.setdefault((_place(name, depth)[0], core), name) is not name:
            return  # several masks of one case
    found = _around(depth, masks, images)
    channels: dict[Affix, dict[Place, Name]] = {}
    used: set[Name] = set()
    for affix, there in sorted(found.items(), key=lambda item: (-len(item[1]), len(_text(item[0])), _text(item[0]))):
        most = len(next(iter(channels.values()))) if channels else len(masks)
        if len(there) < (most if channels else ENOUGH * most):
            break
        if not used.intersection(there.values()):
            channels[affix] = there
            used.update(there.values())
    if channels:
        ordered = dict(sorted(channels.items(), key=lambda item: (item[0].folder or "", _text(item[0]), item[0].below)))
        yield _widened(Naming(depth, mask, masks, ordered))


def _around(depth: int | None, masks: Mapping[Place, Name], images: Sequence[Name]) -> dict[Affix, dict[Place, Name]]:
    """Return the images by what stands around a case of the masks in their names."""
    found: dict[Affix, dict[Place, Name]] = defaultdict(dict)
    twice: set[Affix] = set()
    for name in images:
        places = [_place(name, depth)]
        if depth is not None:  # it may also lie beside the folder of the masks
            places = [place for place in places if place[1]]
            places.append(((*name.folders[:depth], "", *name.folders[depth:]), None))
        parts = tokens(name.stem)
        ends = [sum(map(len, parts[:k])) for k in range(len(parts) + 1)]
        spans = [(a, b) for k, a in enumerate(ends) for b in ends[k + 1 :]] or [(0, 0)]
        for (folders, folder), (a, b) in product(places, [*spans, (len(name.stem), len(name.stem))]):
            place = (folders, name.stem[a:b])
            if place in masks:
                affix = Affix(folder, name.stem[:a], name.stem[b:], name.below)
                if found[affix].setdefault(place, name) is not name:
                    twice.add(affix)
    return {affix: there for affix, there in found.items() if affix not in twice}


def _widened(naming: Naming) -> Naming:
    """Move what the names of masks and of all channels share beside the case into the case: ``01`` to ``PAT01``."""
    if not any(case for _, case in naming.masks):  # folders tell the cases apart
        return naming
    affixes = [naming.mask, *naming.images]
    before = _shared([tokens(affix.before)[::-1] for affix in affixes])[::-1]
    after = _shared([tokens(affix.after) for affix in affixes])
    while before and not before[0][0].isalnum():
        before = before[1:]
    while after and not after[-1][0].isalnum():
        after = after[:-1]
    a, b = len("".join(before)), len("".join(after))

    def moved(affix: Affix, there: Mapping[Place, Name]) -> tuple[Affix, dict[Place, Name]]:
        wider = replace(affix, before=affix.before[: len(affix.before) - a], after=affix.after[b:])
        return wider, {(folders, "".join([*before, case, *after])): name for (folders, case), name in there.items()}

    mask, masks = moved(naming.mask, naming.masks)
    return Naming(naming.depth, mask, masks, dict(moved(affix, there) for affix, there in naming.images.items()))


def _shared(lists: Sequence[Sequence[str]]) -> list[str]:
    return [group[0] for group in takewhile(_alike, zip(*lists, strict=False))]


def layout_of(naming: Naming) -> dict[str, object]:
    """Return the keys ``patterns``, ``mask`` and ``extra_channels`` of a card's layout.

    Raises:
        ValueError: The names of a card's cases cannot be made from such names.
    """
    first, *others = naming.images.items()
    groups = _folder_groups(naming, [place[0] for place in first[1]])
    cases = [place[1] for place in first[1]]
    case = _case_pattern(cases)
    folders = [pattern for pattern, _ in groups]
    templates = [template for _, template in groups]
    if not any(cases):  # files of the same name in folders of the cases
        place = max((k for k, (_, template) in enumerate(groups) if template.startswith("{folder")), default=None)
        if place is None:
            raise ValueError("no part of the names tells the cases apart")
        folders[place], templates[place], case, written = "(?P<case>[^/]+)", "{case}", "", ""
    else:
        written = "{case}"
        if len(set(cases)) < len(cases):
            raise ValueError("cases in different folders have the same name")

    def pattern(affix: Affix, names: Mapping[Place, Name]) -> str:
        beside = _unlike(naming.mask, affix) if naming.depth is None else ("", "")
        stem = f"{beside[0]}{re.escape(affix.before)}{case}{re.escape(affix.after)}{beside[1]}"
        free = "/(?P<start>[^/]+)" if affix.starts_freely else "/[^/]+"
        below = re.escape(affix.below).replace(re.escape(ANY), free)
        if naming.depth is None and affix.below.endswith(ANY):  # beside masks, which are no images
            below += _no_mask(naming, any(name.series for name in names.values()))
        return "/".join([*_filled(folders, naming.depth, affix, re.escape), stem]) + below + _any_of(names.values())

    def template(affix: Affix, names: Mapping[Place, Name]) -> str:
        suffixes = {name.suffix for name in names.values()}
        ending = suffixes.pop() if len(suffixes) == 1 else ".*"
        stem = f"{_literal(affix.before)}{written}{_literal(affix.after)}"
        stem += _literal(affix.below).replace(ANY, "/{start}") if affix.starts_freely else _literal(affix.below)
        return "/".join([*_filled(templates, naming.depth, affix, _literal), stem]) + ending

    layout: dict[str, object] = {"patterns": [pattern(*first)], "mask": template(naming.mask, naming.masks)}
    if others:
        layout["extra_channels"] = {channel_name(affix): template(affix, there) for affix, there in others}
    return layout


def channel_name(affix: Affix) -> str:
    """Return a name for a channel from what its files are called beside the case."""
    below = affix.below.replace(ANY, "").replace("/", "_")
    return f"{affix.before}{affix.after}{below}".strip("_-. ") or affix.folder or "image"


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _filled(parts: Sequence[str], depth: int | None, affix: Affix, escape: Callable[[str], str]) -> list[str]:
    """Insert the folder of images or masks; at ``depth`` the parts hold only the split after its name."""
    if depth is None:
        return list(parts)
    folder = [] if affix.folder is None else [escape(affix.folder) + parts[depth]]
    return [*parts[:depth], *folder, *parts[depth + 1 :]]


def _folder_groups(naming: Naming, places: Sequence[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Return the pattern and the template of each folder: fixed, a split, or any name."""
    if len({len(folders) for folders in places}) > 1:
        raise ValueError("the files lie at different depths")
    groups = []
    split = False
    for k, names in enumerate(map(set, zip(*places, strict=True))):
        if len(names) == 1:
            groups.append((re.escape(name := min(names)), _literal(name)))
        elif not split and all(map(is_split, names)):
            split = True
            groups.append((f"(?P<split>{'|'.join(map(re.escape, sorted(names)))})", "{split}"))
        else:
            groups.append((f"(?P<folder{k}>[^/]+)", f"{{folder{k}}}"))
    return groups


def _case_pattern(cases: Collection[str]) -> str:
    return r"(?P<case>\d+)" if all(case.isdecimal() for case in cases) else "(?P<case>[^/]+)"


def _unlike(mask: Affix, image: Affix) -> tuple[str, str]:
    """Return conditions that no mask fulfils where an image's name may end or start like that of a mask."""
    before = f"(?!{re.escape(mask.before)})" if mask.before and not image.before else ""
    after = f"(?<!{re.escape(mask.after)})" if mask.after and not image.after else ""
    return before, after


def _no_mask(naming: Naming, series: bool) -> str:
    """Return conditions that no mask fulfils where an image, or a folder with a series, may have any name."""
    own = naming.mask.below if ANY not in naming.mask.below else naming.mask.after
    suffixes = sorted({name.suffix for name in naming.masks.values()} if series else {""})
    return "".join(f"(?<!{re.escape(own + suffix)})" for suffix in suffixes if own + suffix)


def _any_of(names: Collection[Name]) -> str:
    suffixes = sorted({name.suffix for name in names}, key=lambda suffix: (-len(suffix), suffix))
    return re.escape(suffixes[0]) if len(suffixes) == 1 else f"(?:{'|'.join(map(re.escape, suffixes))})"

"""Patterns of array files, each with one volume or with one slice of a volume."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from mlla_seg.data.formats.registry import suffix_in
from mlla_seg.data.layouts import SPLIT_FOLDERS
from mlla_seg.data.tree import stem_of
from mlla_seg.planning.words import tokens

SLICES = (r"(?P<case>[^/]+?)_?(?i:slice)_?(?P<slice>\d+)", r"(?P<case>[^/]+?_?(?i:slice)[A-Za-z]+)_(?P<slice>\d+)")
"""Stems of slices, such as ``case0005_slice000`` and ``case_001_sliceED_0``."""
VOLUME = "(?P<case>[^/]+)"


def array_patterns(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the patterns of array files, and the split that each folder stands for.

    Patterns of volumes come before those of slices, as a case that is there as both is taken from the first.
    """
    folders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        folders[name.rpartition("/")[0], suffix_in(name)].append(stem_of(name.rpartition("/")[2]))
    splits = {folder: split for folder, _ in folders if (split := _split_of(folder)) and "/" not in folder}
    splits = splits if len(set(splits.values())) > 1 else {}
    found = []
    for (folder, suffix), stems in folders.items():
        stem = next((form for form in SLICES if all(re.fullmatch(form, stem) for stem in stems)), VOLUME)
        place = f"(?P<split>{re.escape(folder)})/" if folder in splits else f"{re.escape(folder)}/" if folder else ""
        found.append((stem != VOLUME, f"{place}{stem}{re.escape(suffix)}"))
    return [pattern for _, pattern in sorted(found)], splits


def _split_of(folder: str) -> str | None:
    """Return the split that a folder's name begins with, as in ``train_npz``."""
    first = next(iter(tokens(folder)), "").lower()
    return SPLIT_FOLDERS.get(first)

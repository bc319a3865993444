"""Words in the names of files and folders: which stand for masks, and which for splits."""

from __future__ import annotations

import re

from mlla_seg.data.layouts import SPLIT_FOLDERS

TOKEN = re.compile(r"[^\W\d_]+|\d+|[\W_]+")
"""Parts of a name: letters, digits, or what stands between them."""
MASK_STARTS = ("mask", "label", "segm", "annot", "groundtruth", "footprint", "polygon")
MASK_WORDS = {"seg", "gt", "gts", "lb", "lbl", "roi", "rois", "truth", "ann", "manual", "vectors"}
SPLIT_AT_END = re.compile(r"(.*?)[_-]?(Tr|Ts|Va|Val|Train|Test|train|val|valid|test|training|validation)")


def tokens(text: str) -> list[str]:
    """Return the parts of a name, whose concatenation is the name."""
    return TOKEN.findall(text)


def means_mask(text: str) -> bool:
    """Return whether a name, or a part of one, says that it is of a mask."""
    words = [token.lower() for token in tokens(text)]
    return any(word in MASK_WORDS or word.startswith(MASK_STARTS) for word in words)


def without_split(folder: str) -> tuple[str, str]:
    """Return the name of a folder without the split at its end, and that split: ``imagesTr`` to ``images``, ``Tr``.

    The split is empty if the name has none, or consists of nothing else.
    """
    match = SPLIT_AT_END.fullmatch(folder)
    if match and match[1]:
        return folder[: match.start(2)], match[2]
    return folder, ""


def is_split(folder: str) -> bool:
    """Return whether a folder is named after a split, such as ``train``."""
    return folder.lower() in SPLIT_FOLDERS

"""Paths as they may be shared: without home folders and names of users, in checkpoints, scores and reports."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

OF_RUN = 4
"""Parts of NAME/version_N/checkpoints/best.ckpt, by which readers tell runs apart."""
ROOTS = 2
"""First parts of a path, which name a user or a disk, such as /home/USER."""
LINE = re.compile(r"""^(\s*(?:- )*(?:[\w.]+:\s+)?)(['"]?)(/.*|[A-Za-z]:[\\/].*)\2$""", re.MULTILINE)
"""A line of YAML whose value is an absolute path."""


def shareable(path: str) -> str:
    """Return the last part of an absolute path, or its parts within a run; other texts stay."""
    place = Path(path)
    if not place.is_absolute():
        return path
    parts = place.parts[1:]
    user = Path.home().name
    first = max([ROOTS, *(k + 1 for k, part in enumerate(parts) if part == user)])
    kept = parts[first:][-OF_RUN:] if place.parent.name == "checkpoints" else ()
    return str(Path(*(kept or parts[-1:])))


def path_id(path: str) -> str:
    """Return what tells files of one name apart, without their folders."""
    return hashlib.sha256(str(Path(path).resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def shareable_lines(text: str) -> str:
    """Return a YAML text in which values that are absolute paths are :func:`shareable`."""
    return LINE.sub(lambda found: f"{found[1]}{found[2]}{shareable(found[3])}{found[2]}", text)

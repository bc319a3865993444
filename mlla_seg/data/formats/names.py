"""Names of classes, regions, channels and data sets, which end up in files of many formats and on every screen."""

from __future__ import annotations

from mlla_seg.errors import InputError
from mlla_seg.visible import is_hidden, visible

LONGEST = 200
"""Most characters of a name."""


def require_name(name: str, what: str = "the name") -> str:
    """Return a name that can be written to all files and shown everywhere.

    Raises:
        InputError: It is empty, too long, or holds line breaks, escape codes or other signs without a shape.
    """
    if not name.strip():
        raise InputError(f"{what} {name!r} is empty.")
    if any(map(is_hidden, name)):
        raise InputError(
            f"{what} {visible(name[:80])} holds a line break, an escape code or another sign that cannot be seen."
        )
    if len(name) > LONGEST:
        raise InputError(f"{what} {name[:40]}... has {len(name)} characters; at most {LONGEST} are allowed.")
    return name


def require_folder_name(name: str) -> str:
    """Return a name that can be that of a folder, here for runs and the cache.

    Raises:
        InputError: See :func:`require_name`; or it would lead to another folder.
    """
    if name.startswith((".", "-")) or set(name) & set("/\\:"):
        raise InputError(f"the name {name!r} also names folders: it may not start with . or -, nor hold /, \\ or :.")
    return require_name(name)

"""The orientation tag of TIFF files, which viewers obey, and GDAL and with it this project do not."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mlla_seg.data.formats.locations import Location, Remote

ORIENTATION = 274
BIG = 43
"""Version of files with offsets of 64 bits; others have 42."""
MOST_TAGS = 4096
"""Tags of an image that are looked at; real files have a few dozen."""
UNTURNED = (
    "its orientation tag turns it in viewers, but not here and in GIS; its mask is of the pixels as stored, not of the "
    "image as shown"
)


def unturned_note(paths: Iterable[Location]) -> tuple[str, ...]:
    """Return a note if a viewer would turn one of the files."""
    for path in paths:
        if not isinstance(path, Remote) and path.suffix.lower() in (".tif", ".tiff"):
            with suppress(OSError, ValueError, struct.error):  # opening a damaged file tells what is wrong
                if 2 <= orientation_of(path) <= 8:
                    return (UNTURNED,)
    return ()


def orientation_of(path: Path) -> int:
    """Return the orientation of the first image of a TIFF: 1 as stored, 2 to 8 mirrored or turned.

    Raises:
        OSError, ValueError, struct.error: The file is damaged or no TIFF.
    """
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = struct.unpack(f"{order}H", head[2:4])[0] == BIG
        number, size = ("Q", 8) if big else ("I", 4)
        (start,) = struct.unpack(f"{order}{number}", head[size : 2 * size])
        file.seek(start)
        (count,) = struct.unpack(f"{order}Q" if big else f"{order}H", file.read(8 if big else 2))
        for _ in range(min(count, MOST_TAGS)):
            entry = file.read(20 if big else 12)  # tag, type, count, value
            if struct.unpack(f"{order}H", entry[:2])[0] == ORIENTATION:
                value = entry[-size:][:2]
                return int(struct.unpack(f"{order}H", value)[0])
    return 1

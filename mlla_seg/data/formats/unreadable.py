"""Errors for files that a library cannot read, with advice that fits the reason."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from mlla_seg.data.formats.locations import Location, Remote
from mlla_seg.errors import InputError

CUT_OFF = re.compile(
    r"truncat|unexpected end|ended before|end of (the )?file|end-of-(file|stream)|\bEOF|incomplete|not enough"
    r"|bad crc|crc check|expected \d+ bytes|got \d+ bytes|read only \d|could the file be damaged|not a zip file"
    r"|greater than file size"
    r"|read(ing)? (error|failed)|error reading|incorrect data check|invalid (distance|code|block|stored)|data stream"
    r"|IReadBlock failed|failed to read directory|file cannot be read",
    re.IGNORECASE,
)
"""Messages of libraries about files that end early or were damaged on the way."""
LEAST = 200
"""Bytes below which a file cannot be an image."""
IN_PLACE = {
    b"version https://git-lfs": "It is a pointer of Git LFS: get the file itself with git lfs pull.",
    b"<!doctype html": "It is a web page: download the file itself.",
    b"<html": "It is a web page: download the file itself.",
}
"""What is found in place of an image, by its first bytes, and what to do."""


def unreadable(path: Location, suffix: str, error: BaseException) -> InputError:
    """Return the error for a file that cannot be read, with the library's reason and what to do.

    Args:
        path: The file, the folder of a DICOM series, or a place that GDAL opens.
        suffix: Suffix by which its format was chosen.
        error: The library's error.
    """
    reason = " ".join(str(error).split()) or type(error).__name__
    reason = re.sub(r"^Exception thrown in SimpleITK.*?(?: |::)ERROR: (\w+\(\w+\): )?", "", reason)
    advice = _advice(path, suffix, error, reason.replace(str(path), ""))
    return InputError(f"{path}: cannot be read as {suffix} ({reason}). {advice}")


def _advice(path: Location, suffix: str, error: BaseException, reason: str) -> str:
    if isinstance(error, MemoryError):
        return "It does not fit into memory: close other programs, or cut it into parts."
    if isinstance(error, PermissionError):
        return "Allow this user to read it."
    if isinstance(path, Remote):
        return "Check the address and the network."
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(LEAST).lstrip().lower()
        for content, advice in IN_PLACE.items():
            if start.startswith(content):
                return advice
        if (size := path.stat().st_size) < LEAST:
            return f"It has only {size} bytes. Copy or download it again."
    if re.search("direction", reason, re.IGNORECASE):
        return "Repair its header: the space directions of an NRRD, the TransformMatrix of a MetaImage."
    if isinstance(error, EOFError) or CUT_OFF.search(reason) or _ends_early(path):
        return "Is it complete? Copy or download it again."
    return f"Is it really {suffix}? Convert it with the program that wrote it."


def _ends_early(path: Path) -> bool:
    """Return whether a compressed file ends within the header of its content, which libraries do not recognise."""
    try:
        with gzip.open(path) as file:
            file.read(1024)
    except EOFError:
        return True
    except (OSError, zlib.error):  # not compressed, or a folder
        return False
    return False

"""Headers of NRRD and MetaImage files: where the voxels are, and whether their compressed stream is whole.

SimpleITK does not say which files it opened. It also returns wrong voxels without an error where a compressed stream is
damaged, so the checksum at the end of the stream is checked here.
"""

from __future__ import annotations

import bz2
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 2**20
"""Bytes that are decompressed at once."""
MOST_FILES = 2**16
"""Files of one volume."""
ENCODINGS = {"gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
"""Compressions of NRRD."""


@dataclass(frozen=True)
class Voxels:
    """Where an image stores its voxels."""

    files: tuple[Path, ...]
    """Files with the voxels: the image itself, or those beside a detached header."""
    start: int
    """Bytes before the voxels in each file."""
    compression: str
    """``gzip``, which includes zlib streams, ``bzip2`` or empty."""


def fields_of(path: Path) -> tuple[dict[str, str], Sequence[str], int]:
    """Return the fields of an NRRD or MetaImage header, the names of other files with voxels, and its bytes."""
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(CHUNK), b"")
        fields, names = (_nrrd if path.suffix.lower() in (".nrrd", ".nhdr") else _meta_image)(lines)
        return fields, names, file.tell()


def voxels_of(path: Path) -> Voxels:
    """Return where an NRRD or MetaImage stores its voxels."""
    fields, names, start = fields_of(path)
    compression = ENCODINGS.get(fields.get("encoding", "").lower(), "")
    if fields.get("compresseddata", "").lower() in ("true", "1"):
        compression = "gzip"
    if any(fields.get(key, "0") != "0" for key in ("lineskip", "headersize")):
        compression = ""  # the streams begin elsewhere, and are left to SimpleITK
    if names:
        return Voxels(tuple(path.parent / name for name in names), 0, compression)
    return Voxels((path,), start, compression)


def require_whole(path: Path) -> None:
    """Decompress the voxels of an NRRD or MetaImage up to the checksum at their end.

    Raises:
        EOFError: A stream ends early.
        OSError: A stream is damaged.
        zlib.error: A stream is damaged.
    """
    voxels = voxels_of(path)
    opener: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.decompressobj(zlib.MAX_WBITS | 32),  # recognises gzip and zlib
        "bzip2": bz2.BZ2Decompressor,
    }
    if voxels.compression in opener:
        for name in voxels.files:
            _drain(name, voxels.start, opener[voxels.compression]())


def _drain(path: Path, start: int, stream: Any) -> None:
    with path.open("rb") as file:
        file.seek(start)
        while not stream.eof:
            waiting = getattr(stream, "unconsumed_tail", b"")
            chunk = waiting or (file.read(CHUNK) if getattr(stream, "needs_input", True) else b"")
            if not stream.decompress(chunk, CHUNK) and not chunk and not stream.eof:
                raise EOFError(f"the compressed voxels in {path.name} end early")


def _nrrd(lines: Iterator[bytes]) -> tuple[dict[str, str], Sequence[str]]:
    """Return the fields of an NRRD header and the names of its data files, none if the voxels follow it."""
    fields: dict[str, str] = {}
    for line in map(_text, lines):
        if not line:
            break
        name, colon, value = line.partition(":")
        if not colon or value.startswith("=") or line.startswith("#"):  # magic, key/value pair, comment
            continue
        name = name.strip().lower().replace(" ", "")
        fields[name] = value.strip()
        if name == "datafile" and fields[name].split()[:1] == ["LIST"]:
            return fields, [line for line in map(_text, lines) if line]
    return fields, _numbered(fields.get("datafile", ""))


def _meta_image(lines: Iterator[bytes]) -> tuple[dict[str, str], Sequence[str]]:
    """Return the fields of a MetaImage header and the names of its data files, none if the voxels follow it."""
    fields: dict[str, str] = {}
    for line in map(_text, lines):
        name, _, value = line.partition("=")
        name, value = name.strip().lower(), value.strip()
        fields[name] = value
        if name != "elementdatafile":
            continue
        if value.split()[:1] == ["LIST"]:
            return fields, [line for line in map(_text, lines) if line]
        return fields, () if value.upper() in ("LOCAL", "LOCAL_FILE") else _numbered(value)
    return fields, ()


def _numbered(text: str) -> Sequence[str]:
    """Return the name of a data file, or those that a pattern such as ``slice%03d.raw 1 24 1`` stands for."""
    match = re.match(r"([^%\s]*%0?\d{0,2}d[^%\s]*)\s+(-?\d{1,9})\s+(-?\d{1,9})(?:\s+(-?\d{1,9}))?", text)
    if not match:
        return [text] if text else []
    first, last, step = int(match[2]), int(match[3]), int(match[4] or 1) or 1
    return [match[1] % number for number in range(first, last + (1 if step > 0 else -1), step)[:MOST_FILES]]


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape").strip()

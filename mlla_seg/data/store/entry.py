"""What the store knows of a case beside its arrays: a JSON with a checksum, validated when it is read.

The file is ``{"checksum": "CRC-32 of the entry's text", "entry": {...}}``. An entry that is damaged, of another version
or not of the types below is ignored, and the case is built again.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mlla_seg.atomic import replace_content
from mlla_seg.data.blocks import Part
from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.store.case import KINDS, Kind, Stamp, StoredCase, stamp_of

Version: TypeAlias = Literal[11]
VERSION: Version = 11
"""Increased when the meaning of the stored arrays or of the entry changes, so that older ones are rebuilt."""
CHUNK = 2**24
"""Bytes of an array that are read at once."""

Count: TypeAlias = Annotated[int, Field(ge=0)]
Size: TypeAlias = Annotated[int, Field(ge=1)]
STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=STRICT)
class File:
    """A source file as it was when the case was built."""

    name: str
    """Path relative to the root of the data."""
    stamp: Stamp
    digest: str


@dataclass(frozen=True, config=STRICT)
class StoredSources:
    """The files that a case was built from."""

    named: tuple[str, ...]
    """Images and masks, in their order."""
    opened: tuple[File, ...]
    """All files that reading them opens: also voxels behind a header, tiles of a mosaic, masks beside a raster."""
    beside: int
    """CRC-32 of the names that lie beside these files and might become part of an image, such as a world file."""


@dataclass(frozen=True, config=STRICT)
class Stored:
    """An array of the store as it was written."""

    stamp: Stamp
    checksum: Count
    """CRC-32 of the file."""


@dataclass(frozen=True, config=STRICT)
class Entry:
    """Everything that is known of a stored case; see :class:`StoredCase` for what the fields mean."""

    version: Version
    reading: str
    """Digest of how the card reads cases."""
    sources: StoredSources
    arrays: Annotated[dict[Kind, Stored], Field(min_length=len(KINDS))]
    shape: tuple[Size, Size, Size, Size]
    voxels: tuple[Count, ...]
    spacing_mm: tuple[float, float, float] | None
    ground: Ground | None
    warped: dict[str, float]
    notes: tuple[str, ...]
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None
    own: Count | None = None

    def case(self, folder: Path, name: str, stamps: Mapping[Kind, Stamp], part: Part | None = None) -> StoredCase:
        """Return the case, whose arrays are those with the given stamps and hold the given blocks of its scene."""
        moments = self.moments and (np.array(self.moments[0], np.float32), np.array(self.moments[1], np.float32))
        about = (self.shape, self.voxels, self.spacing_mm, self.ground, self.warped, self.notes, moments)
        return StoredCase(name, folder / name, *about, stamps, part, self.own)


ENTRY = TypeAdapter(Entry)


def read_entry(folder: Path, name: str) -> Entry | None:
    """Return the entry of a case; None if there is none that can be trusted."""
    try:
        with open(f"{folder}/{name}.json", "rb") as file:
            content = file.read()
    except OSError:
        return None
    text = content[len(_framed(b"")) - 1 : -1]
    if content != _framed(text):
        return None
    try:
        return ENTRY.validate_json(text)
    except ValidationError:
        return None


def write_entry(folder: Path, name: str, entry: Entry) -> None:
    """Write the entry of a case, after its arrays."""
    replace_content(folder / f"{name}.json", _framed(ENTRY.dump_json(entry)))


def _framed(text: bytes) -> bytes:
    return b'{"checksum": "%08x", "entry": %b}' % (zlib.crc32(text), text)


def stamps_of(folder: Path, name: str) -> dict[Kind, Stamp]:
    """Return the stamps of the arrays of a case.

    Raises:
        OSError: One of them is missing.
    """
    return {kind: stamp_of(f"{folder}/{name}.{kind}.npy") for kind in KINDS}


def checksum_of(path: Path) -> int:
    """Return the CRC-32 of a file (3.5 GB/s)."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum

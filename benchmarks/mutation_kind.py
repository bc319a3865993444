"""What a kind of file is for mutations.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def same(content: bytes) -> bytes:
    return content


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    name: str
    file: str
    """Name of the file that is changed."""
    write: Callable[[Path], object]
    """Writes it into a folder, with the files that belong to it."""
    read: Callable[[Path], object]
    """Reads what is in the folder."""
    unpack: Callable[[bytes], bytes] = same
    """Returns the content that is changed, so that not only checksums fail."""
    pack: Callable[[bytes], bytes] = same


def write_text(content: object) -> Callable[[Path], None]:
    return lambda path: path.write_text(content if isinstance(content, str) else json.dumps(content)) and None


def text_kind(name: str, file: str, content: object, read: Callable[[Path], object]) -> Kind:
    """Return a kind of text file."""
    return Kind(name, file, lambda folder: write_text(content)(folder / file), lambda folder: read(folder / file))

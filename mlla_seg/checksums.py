"""Checksums of weights and exported files: written with them, and checked by every command that opens them.

Checkpoints and other zip archives have one for each part, which torch writes but does not check. An ONNX file and
OpenVINO's ``.xml`` end with a *seal* of ours: their length, their SHA-256 and those of files beside them, which other
programs read as metadata or a comment. Folders of ``save_pretrained`` have them in ``config.json``. A file without
checksums, or one that another program wrote anew, is not checked. This module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

from mlla_seg.errors import InputError
from mlla_seg.texts import read_json

KEY = "mlla_seg_checksums"
LONGEST_SEAL = 4096
BLOCK = 2**22
MOST_PACKED = 20
"""Times that the parts of an archive of weights may be larger than the archive; torch does not compress them."""
ANOTHER = "Copy or export it again."


def sha256(path: str | Path, end: int | None = None) -> str:
    """Return the SHA-256 of a file, or of its first ``end`` bytes; about 1 GB/s."""
    left = os.path.getsize(path) if end is None else end
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(BLOCK, left))):
            found.update(block)
            left -= len(block)
    return found.hexdigest()


def sums_of(paths: Iterable[Path], folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of files, by their paths in a folder."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths
    }


def seal(path: Path, *beside: Path) -> None:
    """Append the checksums of a complete ``.onnx`` or ``.xml``, and of files beside it that belong to it."""
    sums = sums_of((path, *beside), path.parent)
    content = json.dumps({**sums.pop(path.name), "beside": sums})
    if path.suffix == ".xml":
        words = f"<!-- {KEY} {content} -->\n".encode()
    else:  # an entry of metadata_props, which may follow the graph in a protobuf message
        entry = b"".join(
            tag + _length(part) + part for tag, part in ((b"\x0a", KEY.encode()), (b"\x12", content.encode()))
        )
        words = b"\x72" + _length(entry) + entry
    with path.open("ab") as file:
        file.write(words)


def require_sealed(path: Path) -> None:
    """Check the seal of an exported file, if it has one; once per process.

    Raises:
        InputError: The file, or one that belongs to it, is damaged or incomplete.
    """
    status = path.stat()
    for name, expected in _sums_beside(path, status.st_size, status.st_mtime_ns).items():
        require_sum(path.with_name(Path(name).name), expected)


@lru_cache
def _sums_beside(path: Path, size: int, changed_ns: int) -> dict[str, Any]:
    """Check the sealed file itself, and return the checksums of the files beside it."""
    with path.open("rb") as file:
        file.seek(max(0, size - LONGEST_SEAL))
        _, found, words = file.read().rpartition(KEY.encode())
    if not found or b"{" not in words:
        return {}
    try:
        sums, _ = json.JSONDecoder().raw_decode(words[words.index(b"{") :].decode(errors="replace"))
        length, expected, beside = sums["bytes"], sums["sha256"], dict(sums["beside"])
        is_end = _begins_at(path, length, size)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: is damaged: its checksum cannot be read. {ANOTHER}") from None
    if not is_end:
        return {}  # another program wrote the file anew, and kept the seal as metadata
    if sha256(path, length) != expected:
        raise InputError(
            f"{path}: is damaged, or was changed after its export: its checksum is wrong. {ANOTHER} If the change is "
            f"wanted, remove {KEY} from its metadata."
        )
    return beside


def _begins_at(path: Path, length: int, size: int) -> bool:
    """Return whether a seal begins ``length`` bytes into a file and is its end."""
    if not 0 <= size - length <= LONGEST_SEAL:
        return False
    with path.open("rb") as file:
        file.seek(length)
        return KEY.encode() in file.read(len(KEY) + 16)


def require_sum(path: Path, expected: Mapping[str, Any]) -> None:
    """Check a file against an entry of :func:`sums_of`; the content once per process.

    Raises:
        InputError: It is absent, or its size or checksum is wrong.
    """
    if not isinstance(expected, Mapping):
        raise InputError(f"{path}: its checksum cannot be read. {ANOTHER}")
    if not os.path.isfile(path):  # where Path.is_file raises if a name is too long
        raise InputError(f"{path}: is missing, and belongs to the file beside it. {ANOTHER}")
    status = path.stat()
    if status.st_size != expected.get("bytes"):
        raise InputError(f"{path}: has {status.st_size} bytes, expected {expected.get('bytes')}. {ANOTHER}")
    if _known_sha256(path.resolve(), status.st_size, status.st_mtime_ns) != expected.get("sha256"):
        raise InputError(f"{path}: is damaged: its checksum is wrong. {ANOTHER}")


@lru_cache
def _known_sha256(path: Path, size: int, changed_ns: int) -> str:
    return sha256(path)


def require_intact_archive(path: Path) -> None:
    """Check the checksums of all parts of a zip archive, such as a ``.ckpt``; once per process. Other files pass.

    Raises:
        InputError: A checksum is wrong.
    """
    status = path.stat()
    _require_intact_archive(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _require_intact_archive(path: Path, size: int, changed_ns: int) -> None:
    if is_zipfile(path):
        with ZipFile(path) as file:
            if (claimed := sum(part.file_size for part in file.infolist())) > MOST_PACKED * size:
                raise InputError(
                    f"{path}: claims to hold {claimed / 1e6:.0f} MB in a file of {size / 1e6:.0f} MB, which no program "
                    "of torch writes. Use another checkpoint."
                )
            if part := file.testzip():
                raise InputError(
                    f"{path}: is damaged: the checksum of {part} is wrong. Copy it again, or use another checkpoint."
                )


def with_checksums(config: Mapping[str, Any], folder: Path, *files: str) -> dict[str, Any]:
    """Return the content of a ``config.json`` with its own checksum and those of files in its folder."""
    sums = sums_of([folder / name for name in files], folder)
    return {**config, "checksums": {"config.json": _of_content(config), **sums}}


def require_intact_folder(folder: Path) -> None:
    """Check the checksums in a folder's ``config.json``, if there are any.

    Raises:
        InputError: ``config.json`` or a file differs from its checksum.
    """
    path = folder / "config.json"
    try:
        config = read_json(path)
        sums = dict(config.pop("checksums"))
        own = sums.pop("config.json")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # of another program, or of a version without checksums
    if own != _of_content(config):
        raise InputError(
            f"{path}: differs from its checksum, so it is damaged. {ANOTHER} If you edited it, remove its checksums."
        )
    for name, expected in sums.items():
        require_sum(folder / Path(name).name, expected)


def _of_content(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _length(part: bytes) -> bytes:
    """Return the length of a part as protobuf's variable-length number."""
    number, words = len(part), b""
    while number > 127:
        words += bytes([number & 127 | 128])
        number >>= 7
    return words + bytes([number])

"""Containers of file formats, taken apart and put together again so that not only checksums of changed files fail."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib

import torch

WEIGHTS = {"conv.weight": torch.arange(12.0).reshape(3, 4), "conv.bias": torch.zeros(3, dtype=torch.bfloat16)}


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def unpacked_npz(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read("image.npy")


def packed_npz(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in ("image", "label"):
            archive.writestr(f"{key}.npy", content)
    return made.getvalue()


def with_checksums(content: bytes) -> bytes:
    """Return a PNG with the right checksums of its chunks, as far as it has chunks."""
    made, place = content[:8], 8
    while place + 8 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        chunk = content[place + 4 : place + 8 + size]
        made += content[place : place + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + size
    return made


def unpacked_pickle(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def packed_pickle(content: bytes, valid: bytes = b"") -> bytes:
    """Return a file of torch, by default of ``WEIGHTS``, with this pickle in place of its own."""
    if not valid:
        saved = io.BytesIO()
        torch.save(WEIGHTS, saved)
        valid = saved.getvalue()
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("data.pkl") else old.read(name))
    return made.getvalue()

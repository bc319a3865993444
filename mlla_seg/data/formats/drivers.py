"""How GDAL opens files that a data set holds: with the driver of their suffix alone, and without the network.

GDAL recognises a file by its content, whatever its name, and many of its formats only describe where the image is: at
an address, in a bucket, or anywhere on the disk. A file with such a content would make a program reach there that was
told to read a folder. Places that the user types are opened as GDAL does; see ``locations.py``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mlla_seg.errors import InputError

DRIVERS = {
    **dict.fromkeys((".tif", ".tiff"), ("GTiff",)),
    ".vrt": ("VRT",),
    ".jp2": ("JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID"),
    ".png": ("PNG",),
    **dict.fromkeys((".jpg", ".jpeg"), ("JPEG",)),
    ".bmp": ("BMP",),
}
"""Drivers by suffix; the first that is there is used."""
OFFLINE = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",  # all handlers of addresses and buckets
    "GDAL_HTTP_PROXY": "http://127.0.0.1:9",  # the port that discards, for drivers that ask by themselves
    "GDAL_HTTPS_PROXY": "http://127.0.0.1:9",
    "GDAL_HTTP_MAX_RETRY": "0",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",  # which reads any file as pixels
    "VRT_VIRTUAL_OVERVIEWS": "NO",
}
"""Options of GDAL while it reads files alone."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
STARTS = (*TIFF, b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\x89PNG", b"\xff\xd8\xff", b"BM", b"EHFA_HEADER_TAG")
"""First bytes of formats that hold their own pixels: TIFF, JPEG 2000, PNG, JPEG, BMP and Erdas Imagine."""
BESIDE = (".ovr", ".msk", ".msk.ovr", ".aux")
"""Endings of the files beside a raster that GDAL opens by their content: overviews, masks, and old metadata."""


def driver_of(path: Path) -> str:
    """Return the driver of GDAL for the suffix of a file, among those of this build."""
    suffix = path.suffix.lower()
    found = [name for name in DRIVERS.get(suffix, ()) if name in _known()]
    if not found:
        raise InputError(f"{path}: this build of GDAL has no driver for {suffix or 'files without a suffix'}.")
    return found[0]


@cache
def _known() -> frozenset[str]:
    """Return the drivers of this build of GDAL."""
    import rasterio

    with rasterio.Env() as env:
        return frozenset(env.drivers())


def holds_pixels(path: Path) -> bool:
    """Return whether a file starts as those that hold their own pixels, and so names no other place."""
    with path.open("rb") as opened:
        return opened.read(16).startswith(STARTS)


def require_file(path: Path) -> None:
    """Raise if a path is no ordinary file: reading a pipe, a socket or a device may never end.

    Raises:
        InputError: Says what it is.
    """
    if path.is_file():
        return
    kinds = {"a named pipe": path.is_fifo, "a socket": path.is_socket, "a folder": path.is_dir}
    kinds |= {"a device": lambda: path.is_char_device() or path.is_block_device()}
    what = next((kind for kind, found in kinds.items() if found()), "")
    raise InputError(f"{path}: is {what}, not a file. Remove it." if what else f"{path}: no such file.")

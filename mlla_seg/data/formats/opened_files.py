"""The files that an image consists of, which reading it opens, and digests of their content.

A DICOM series is all files of its folder; a MetaImage or NRRD may keep its voxels in other files; a raster may be a
mosaic of others, each with a mask, a position or statistics beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES, open_rasters
from mlla_seg.data.formats.itk_headers import voxels_of
from mlla_seg.data.formats.registry import PHOTO_SUFFIXES, suffix_of
from mlla_seg.data.formats.volumes import ITK_SUFFIXES
from mlla_seg.errors import InputError

CHUNK = 2**22
"""Bytes that are read at once."""


def opened_files(path: Path) -> list[Path]:
    """Return the files that reading an image or a mask opens, the image itself first unless it is a folder.

    Of an image that cannot be read, those are returned that could be found: reading it tells what is wrong.
    """
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    found = dict.fromkeys([path])
    suffix = suffix_of(path)
    try:
        if suffix in ITK_SUFFIXES:
            found.update(dict.fromkeys(voxels_of(path).files))
        elif suffix in (*RASTER_SUFFIXES, *PHOTO_SUFFIXES):
            _add_raster(path, found)
        elif suffix.endswith(".h5"):
            found.update(dict.fromkeys(_h5_files(path)))
    except (OSError, ValueError):  # InputError is one too
        pass
    return [file for file in found if file.is_file()]


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file (1.4 GB/s)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _add_raster(path: Path, found: dict[Path, None]) -> None:
    """Add the files that GDAL opens for a raster, and for each source of a mosaic."""
    with open_rasters([path]) as raster:
        dataset = raster.datasets[0]
        files, mosaic = [Path(name) for name in dataset.files], dataset.driver == "VRT"
    new = [file for file in files if file not in found]
    found.update(dict.fromkeys(new))
    for file in new if mosaic else ():
        try:
            _add_raster(file, found)
        except InputError:  # not an image, but beside one
            continue


def _h5_files(path: Path) -> Iterator[Path]:
    """Yield the other files that hold arrays of an HDF5 file: by links, external storage and virtual sources."""
    import h5py

    with h5py.File(path) as file:
        for name in file:
            link = file.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield path.parent / link.filename
                continue
            array = file[name]
            if isinstance(array, h5py.Dataset):
                yield from (path.parent / name for name in _elsewhere(array))


def _elsewhere(array: Any) -> Iterable[str]:
    yield from (name for name, _, _ in array.external or ())
    if array.is_virtual:
        yield from (source.file_name for source in array.virtual_sources())

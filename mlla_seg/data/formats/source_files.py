"""Files of which an image consists, and fingerprints by which a change of any of them is noticed.

A volume may be a header with its voxels in another file, a DICOM series has a file per slice, and GDAL reads world
files, masks, overviews and the tiles of a VRT along with a raster. All of them decide what is read.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from mlla_seg.data.formats.dicom_files import slice_files
from mlla_seg.data.formats.drivers import OFFLINE
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES, import_rasterio, open_dataset
from mlla_seg.data.formats.itk_headers import voxels_of
from mlla_seg.data.formats.locations import Location, Remote
from mlla_seg.data.formats.registry import PHOTO_SUFFIXES
from mlla_seg.data.formats.vector_sources import parts_of
from mlla_seg.data.formats.volumes import ITK_SUFFIXES
from mlla_seg.errors import InputError

SETTLED_NS = 2 * 10**9
"""Age from which a file's times tell every change; some file systems store them to two seconds."""
BLOCK = 2**20


def files_of(place: Location) -> list[Path]:
    """Return the files that are read for an image, sorted; those that are missing too.

    Args:
        place: An image file, the folder of a DICOM series, or a place that GDAL opens. Of the latter, files on other
            machines are left out.

    Raises:
        InputError: A raster does not exist or stands for something else.
    """
    if isinstance(place, Remote):
        return _local_files(place.text)
    if place.is_dir():
        return slice_files(place)
    name = place.name.lower()
    if name.endswith(RASTER_SUFFIXES):
        return _raster_files(place)
    if name.endswith(PHOTO_SUFFIXES):
        return _photo_files(place)
    others: Iterable[Path] = parts_of(place)
    if name.endswith(ITK_SUFFIXES) and place.is_file():
        others = voxels_of(place).files
    elif name.endswith(".h5"):
        others = _arrays_elsewhere(place)
    return sorted({place, *others})


def _raster_files(place: Path) -> list[Path]:
    """Return a raster, the files beside it that GDAL uses, and the same for the sources of a VRT, at any depth."""
    rasterio = import_rasterio(place)
    found: set[Path] = set()
    pending = [place]
    with rasterio.Env(**OFFLINE):
        while pending:
            path = pending.pop()
            if path in found:
                continue
            found.add(path)
            try:
                # What a mosaic names was looked at with the mosaic, and may be of any format that holds its pixels.
                with open_dataset(rasterio, path) if path == place else rasterio.open(path) as dataset:
                    files, mosaic = [Path(file) for file in dataset.files], dataset.driver == "VRT"
            except rasterio.errors.RasterioError:
                continue  # reading it tells what is wrong
            except InputError:
                if path == place:
                    raise
                continue  # a file beside a raster, or a missing one
            if mosaic:
                pending += files
            else:
                found.update(files)
    return sorted(found)


def _photo_files(place: Path) -> list[Path]:
    """Return a photo and what is beside it, which counts if it is the mask of a scene or a tile of a mosaic."""
    try:
        return _raster_files(place)
    except (InputError, UnicodeEncodeError):  # no rasterio, a name that it cannot open, or reading tells what is wrong
        return [place]


def _local_files(text: str) -> list[Path]:
    """Return the file within a place such as ``/vsizip/a.zip/b.tif`` or ``NETCDF:a.nc:band``."""
    inner = re.sub(r"^(/vsi\w+/)+", "", text).replace("{", "").replace("}", "")
    parts = [inner, *re.split(r'[:"]', text)]
    ancestors = (path for part in parts if part for path in (Path(part), *Path(part).parents))
    return [path for path in ancestors if path.is_file()][:1]


def _arrays_elsewhere(path: Path) -> Iterator[Path]:
    """Yield the other files that hold arrays of an HDF5 file: by links, external storage and virtual sources."""
    import h5py

    with suppress(OSError), h5py.File(path) as file:  # reading a damaged file tells what is wrong
        for name in file:
            link = file.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield path.parent / link.filename
            elif isinstance(array := file.get(name), h5py.Dataset):
                yield from (path.parent / outer for outer, _, _ in array.external or ())
                if array.is_virtual:
                    yield from (path.parent / source.file_name for source in array.virtual_sources())


class Sources:
    """Fingerprint of the files of an image, as they are when it is made.

    Names, sizes, times of change and inodes tell in an instant that nothing has changed: programs can set the time of
    modification (mtime), but not that of the change of the file's entry (ctime). Where they differ, as after a copy,
    the content decides.

    Args:
        places: The image file, or the files of its channels or bands.
    """

    def __init__(self, places: Sequence[Location]) -> None:
        self.places = places
        self.files = [path for place in places for path in files_of(place)]
        self.remote = [place.text for place in places if isinstance(place, Remote)]
        self._status = _status(self.files)

    @cached_property
    def content(self) -> str:
        """Digest of the names and contents; reads all files."""
        return digest_of_files(self.files, self.remote)

    def to_dict(self) -> dict[str, str]:
        """Return digests to be stored; that of the times is empty if a file is so new that they may not tell."""
        newest = max((path.stat().st_ctime_ns for path in self.files if path.exists()), default=0)
        settled = time.time_ns() - newest > SETTLED_NS
        return {"content": self.content, "status": self._status if settled else ""}

    def equal(self, stored: Mapping[str, str]) -> bool:
        """Return whether the files are those of a stored fingerprint."""
        return stored.get("status") == self._status or stored.get("content") == self.content

    def changed(self) -> bool:
        """Return whether a file has been changed since this fingerprint was made."""
        return _status([path for place in self.places for path in files_of(place)]) != self._status


def digest_of_files(files: Iterable[Path], also: Sequence[str] = ()) -> str:
    """Return a SHA-256 of the names and contents of files; a missing one counts as such."""
    digest = hashlib.sha256(repr(also).encode())
    for path in files:
        digest.update(f"\0{path.name!r} {path.stat().st_size if path.is_file() else None}\0".encode())
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
    return digest.hexdigest()


def _status(files: Iterable[Path]) -> str:
    facts = []
    for path in files:
        status = path.stat() if path.exists() else None
        facts.append(
            (str(path.absolute()), status and (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
        )
    return hashlib.sha256(repr(facts).encode()).hexdigest()

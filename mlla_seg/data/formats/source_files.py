"""Files of which an image consists, and fingerprints by which a change of any of them is noticed.

A volume may be a header with its voxels in another file, a DICOM series has a file per slice, and GDAL reads world
files, masks, overviews and the tiles of a VRT along with a raster. All of them decide what is read.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from mlla_seg.data.formats.dicom_files import slice_files
from mlla_seg.data.formats.geotiff import RASTER_SUFFIXES, import_rasterio, open_dataset
from mlla_seg.data.formats.locations import Location, Remote
from mlla_seg.data.formats.volumes import ITK_SUFFIXES

HEADER = 2**16
"""Bytes of a volume in which its header names other files."""
SETTLED_NS = 2 * 10**9
"""Age from which a file's times tell every change; some file systems store them to two seconds."""
BLOCK = 2**20


def files_of(place: Location) -> list[Path]:
    """Return the files that are read for an image, sorted; those that are missing too.

    Args:
        place: An image file, the folder of a DICOM series, or a place that GDAL opens. Of the latter, files on other
            machines are left out.

    Raises:
        InputError: A raster cannot be opened.
    """
    if isinstance(place, Remote):
        return _local_files(place.text)
    if place.is_dir():
        return slice_files(place)
    name = place.name.lower()
    if name.endswith(RASTER_SUFFIXES):
        return _raster_files(place)
    return sorted({place, *_named_in_header(place)}) if name.endswith(ITK_SUFFIXES) else [place]


def _raster_files(place: Path) -> list[Path]:
    """Return a raster, the files beside it that GDAL uses, and the same for the sources of a VRT, at any depth."""
    rasterio = import_rasterio(place)
    found: set[Path] = set()
    pending = [place]
    with rasterio.Env():
        while pending:
            path = pending.pop()
            if path in found:
                continue
            found.add(path)
            if path != place and (path.suffix.lower() not in RASTER_SUFFIXES or not path.exists()):
                continue  # a file beside a raster, a tile in another format, or a missing one
            try:
                with open_dataset(rasterio, path) as dataset:
                    pending += [Path(file) for file in dataset.files]
            except rasterio.errors.RasterioError:
                continue  # reading it tells what is wrong
    return sorted(found)


def _local_files(text: str) -> list[Path]:
    """Return the file within a place such as ``/vsizip/a.zip/b.tif`` or ``NETCDF:a.nc:band``."""
    inner = re.sub(r"^(/vsi\w+/)+", "", text).replace("{", "").replace("}", "")
    parts = [inner, *re.split(r'[:"]', text)]
    ancestors = (path for part in parts if part for path in (Path(part), *Path(part).parents))
    return [path for path in ancestors if path.is_file()][:1]


def _named_in_header(path: Path) -> Iterator[Path]:
    """Yield the files that the header of an NRRD or a MetaImage names for its voxels."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        text = file.read(HEADER).decode("latin-1")
    lines = iter(text.split("\n\n" if text.startswith("NRRD") else "\0")[0].splitlines())
    for line in lines:
        if match := re.match(r"(?:data ?file|ElementDataFile)\s*[:=]\s*(.+?)\s*$", line, re.IGNORECASE):
            value = match[1]
            if value.upper() in ("LOCAL", "LOCAL_FILE"):
                return
            names = [line.strip() for line in lines if line.strip()] if value.upper().startswith("LIST") else [value]
            for name in names:
                yield from _numbered(path.parent, name)
            return


def _numbered(folder: Path, name: str) -> list[Path]:
    """Return the files of a name, which may be a pattern with first, last and step, such as ``ct%03d.raw 1 90 1``."""
    match = re.match(r"(\S*%0?\d*d\S*)\s+(-?\d+)\s+(-?\d+)(?:\s+(-?\d+))?", name)
    if not match:
        return [folder / name]
    first, last, step = int(match[2]), int(match[3]), int(match[4] or 1) or 1
    return [folder / (match[1] % k) for k in range(first, last + (1 if step > 0 else -1), step)]


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

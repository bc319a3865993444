"""Files of a DICOM folder: each is a slice, known not to be one, or damaged and named.

A slice that is overlooked makes a wrong volume, so no file is dropped in silence. Files are recognised by content, as
many have no suffix; the suffix only tells a damaged slice from a file of another program.
"""

from __future__ import annotations

import filecmp
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlla_seg.data.formats.claims import require_room
from mlla_seg.errors import InputError
from mlla_seg.progress import quiet

SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
"""Usual suffixes of DICOM files; a file with one of them is DICOM, or damaged."""
LOCALISER = "localiser"
LOCALISERS = re.compile(r"locali[sz]er|scout|topogram|surview|\bsurvey", re.IGNORECASE)
"""Descriptions of series that only serve to plan others."""
SCREENSHOT = "Secondary Capture without a position"
CONTOURS = ("Segmentation", "RT Structure Set")
"""Objects that hold labels, but not as a mask on the grid of the image."""
CONVERT = (
    "Save such labels as a map on the grid of the image, for instance as NIfTI, with 3D Slicer, segimage2itkimage of "
    "dcmqi or, for structure sets, plastimatch."
)
PRIVATE = "private object without an image"
NEEDED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
"""Tags that every image has, the last before its pixels."""
ROWS = 0x00280010
"""The last of the tags by which :func:`role_of` decides."""


DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Transfer syntax of files that are deflated as a whole."""
HEAD = 4096
"""Bytes at the start of a file within which it names its transfer syntax."""
LARGEST_INFLATED = 2**30
"""Most bytes of an inflated file."""


@dataclass(frozen=True)
class Slices:
    """Files of the one series in a folder."""

    headers: dict[Path, Any]
    """pydicom data set without pixels by file, sorted by name."""
    notes: tuple[str, ...]
    """What was left out, with the number of files and the name of one."""


def is_dicom(path: Path) -> bool:
    """Return whether a file starts like a DICOM file, with or without the preamble of 128 bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return True
    group, vr = start[:2], start[4:6]
    if group not in (b"\x02\0", b"\x08\0") or len(start) < 16:
        return False
    explicit = vr.isalpha() and vr.isupper()
    return explicit or int.from_bytes(start[4:8], "little") <= len(start)  # the first elements are short


def is_series(folder: Path) -> bool:
    """Return whether a folder itself contains DICOM images, if only damaged ones."""
    return folder.is_dir() and any(role_at_a_glance(path) in ("", LOCALISER) for path in _visible(folder))


def slice_files(folder: Path) -> list[Path]:
    """Return the DICOM files in a folder, also damaged ones, sorted by name."""
    return [path for path in _visible(folder) if path.suffix.lower() in SUFFIXES or is_dicom(path)]


def is_localiser(folder: Path) -> bool:
    """Return whether the images in a folder only serve to plan other series."""
    roles = {role_at_a_glance(path) for path in _visible(folder)}
    return LOCALISER in roles and "" not in roles


def other_objects(folder: Path) -> list[Path]:
    """Return the DICOM files in a folder that are no images."""
    return [path for path in _visible(folder) if role_at_a_glance(path) not in (None, "", LOCALISER)]


def slices_in(folder: Path) -> Slices:
    """Read the headers of the only series in a folder.

    Raises:
        InputError: A file is damaged, or there is no series, or there are several.
    """
    headers, left_out = _headers(folder)
    roles = {path: role_of(header) for path, header in headers.items()}
    planned = any(role == "" for role in roles.values())
    images: dict[Path, Any] = {}
    for path, header in headers.items():
        role = roles[path]
        if role == "" or (role == LOCALISER and not planned):
            images[path] = header
        else:
            left_out[role].append(path)
    if not images:
        what = "; ".join(_said(found, role) for role, found in left_out.items()) or "it is empty"
        advice = f" {CONVERT}" if any(role in CONTOURS for role in left_out) else ""
        raise InputError(f"{folder}: contains no DICOM image ({what}).{advice}")
    images = _only_series(folder, images, left_out)
    for path, first in _copies(images):
        left_out[f"the same as {first.name}" if len(images) == 2 else "a copy of another"].append(path)
        del images[path]
    notes = [f"left out {_said(found, role)}" for role, found in left_out.items()]
    return Slices(images, tuple(notes))


def role_of(header: Any) -> str:
    """Return what a DICOM object is if it is no slice of a volume, such as ``RT Structure Set``; empty if it is one."""
    from pydicom.uid import UID

    kinds = [
        UID(str(uid)) for uid in (header.get("SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID")) if uid
    ]
    # In a file that is cut short, the first may be a part of a UID.
    kind = next((uid for uid in kinds if _keyword(uid)), kinds[0] if kinds else UID(""))
    known = _keyword(kind)
    if known and "ImageStorage" not in known:
        return kind.name.removesuffix(" Storage")
    if not known and "Rows" not in header and kind:
        return PRIVATE
    if known == "SecondaryCaptureImageStorage" and "ImagePositionPatient" not in header:
        return SCREENSHOT
    if "LOCALIZER" in (header.get("ImageType") or ()) or LOCALISERS.search(header.get("SeriesDescription") or ""):
        return LOCALISER
    return ""


def _keyword(uid: Any) -> str:
    """Return the keyword of a class of objects; empty for an unknown or private one."""
    return str(uid.keyword) if uid.is_valid and not uid.is_private else ""


def _headers(folder: Path) -> tuple[dict[Path, Any], dict[str, list[Path]]]:
    """Return the headers of all DICOM files in a folder, and the other files by what they are.

    Raises:
        InputError: A file is damaged.
    """
    headers, others, damaged = {}, [], []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.name.startswith(".") or not is_dicom(path):
            others.append(path)
            continue
        try:
            headers[path] = read_header(path)
        except InputError as error:
            damaged.append(str(error))
    classes = {header.get("SOPClassUID") for header in headers.values() if "Rows" in header}
    for path in [path for path, header in headers.items() if role_of(header) == PRIVATE]:
        if headers[path].get("SOPClassUID") in classes:
            damaged.append(f"{path}: is cut short, its header ends before the size and type of the pixels")
    suffixes = {*SUFFIXES, *(path.suffix.lower() for path in headers if not _has_no_suffix(path))}
    damaged += [reason for path in others if (reason := _damage(path, suffixes))]
    if damaged:
        count = f" ({len(damaged)} files in this folder are damaged)" if len(damaged) > 1 else ""
        raise InputError(f"{damaged[0]}{count}. Copy it again, or remove it if it is no slice of the volume.")
    return headers, defaultdict(list, {"not DICOM": others} if others else {})


def read_header(path: Path) -> Any:
    """Read a DICOM file up to its pixels.

    Raises:
        InputError: It is damaged.
    """
    pydicom = import_pydicom(path)
    require_room_to_inflate(path)
    try:
        with quiet():
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            role = role_of(header)
    except Exception as error:  # pydicom has no exception of its own for damaged files
        raise InputError(f"{path}: its header is damaged ({' '.join(str(error).split())})") from error
    needed = NEEDED if role in ("", LOCALISER) else ("SOPClassUID",) if role == PRIVATE else ()
    if not all(keyword in header for keyword in needed):
        raise InputError(f"{path}: is cut short, its header ends before the size and type of the pixels")
    return header


def require_room_to_inflate(path: Path) -> None:
    """Check how large a deflated file becomes: pydicom inflates all of it at once, also to read its header alone.

    Raises:
        InputError: It is damaged, or does not fit into memory.
    """
    status = path.stat()
    if (size := _inflated(path, status.st_size, status.st_mtime_ns)) > LARGEST_INFLATED:
        raise InputError(
            f"{path}: is deflated, and would fill more than {LARGEST_INFLATED / 1e9:.1f} GB of memory. Save it without "
            "compression."
        )
    if size:
        require_room(path, (size,), 1)


@lru_cache(4096)
def _inflated(path: Path, size: int, changed_ns: int) -> int:
    """Return the bytes that a deflated DICOM file holds, counted up to a limit; 0 for other files."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        if DEFLATED not in head:
            return 0
        group = 132 if head[128:132] == b"DICM" else 0  # of the tags on the file, which begins with its own length
        if head[group : group + 8] != b"\x02\0\0\0UL\x04\0":
            raise InputError(f"{path}: is deflated, but the length of its header is missing.")
        file.seek(group + 12 + int.from_bytes(head[group + 8 : group + 12], "little"))
        inflater, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while (block := inflater.unconsumed_tail or file.read(HEAD)) and count <= LARGEST_INFLATED:
            try:
                count += len(inflater.decompress(block, 2**24))
            except zlib.error as error:
                raise InputError(f"{path}: cannot be inflated ({error}). Copy it again.") from error
    return count


def import_pydicom(path: Path) -> Any:
    """Import pydicom.

    Raises:
        InputError: It is not installed; names the extra.
    """
    try:
        import pydicom
    except ImportError as error:
        raise InputError(f"{path}: DICOM needs pydicom: pip install 'mlla_seg[medical]'") from error
    return pydicom


def _damage(path: Path, suffixes: Iterable[str]) -> str:
    """Return why a file that is not DICOM is taken for a damaged slice; empty for a file of another program."""
    if path.name.startswith("."):
        return ""
    size = path.stat().st_size
    if path.suffix.lower() not in suffixes and not (_has_no_suffix(path) and (size == 0 or _is_binary(path))):
        return ""
    return f"{path}: is {'empty' if size == 0 else 'not readable as DICOM'}"


def _has_no_suffix(path: Path) -> bool:
    """Return whether a name has no suffix but perhaps numbers, such as IM0001 or the UID of the slice."""
    return not path.suffix or path.suffix[1:].isdigit()


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" in file.read(1024)


def _visible(folder: Path) -> Iterable[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))


def role_at_a_glance(path: Path) -> str | None:
    """Return the role of a file from the start of its header; None if it is not DICOM, empty also if it is damaged."""
    if not is_dicom(path):
        return "" if path.suffix.lower() in SUFFIXES else None
    try:
        from pydicom.filereader import read_partial
    except ImportError:
        return ""  # reading it will ask for pydicom
    try:
        require_room_to_inflate(path)
        with quiet(), path.open("rb") as file:
            header = read_partial(file, stop_when=lambda tag, vr, length: tag > ROWS, force=True)
            return role_of(header)
    except Exception:  # read_header tells what is wrong
        return ""


def _only_series(folder: Path, images: dict[Path, Any], left_out: dict[str, list[Path]]) -> dict[Path, Any]:
    """Return the images of the only series that has a place in the patient."""
    series: dict[str, list[Path]] = defaultdict(list)
    for path, header in images.items():
        series[str(header.get("SeriesInstanceUID", ""))].append(path)
    placed = [
        files
        for files in series.values()
        if any("ImagePositionPatient" in images[path] or _has_frames(images[path]) for path in files)
    ]
    if len(placed) == 1:
        (chosen,) = placed
        rest = [path for path in images if path not in set(chosen)]
        if rest:
            left_out["of another series, without a position"] += rest
        return {path: images[path] for path in chosen}
    if len(series) > 1:
        named = [(images[files[0]].get("SeriesDescription") or name, len(files)) for name, files in series.items()]
        listed = ", ".join(f"{name}: {count} file{'s' if count > 1 else ''}" for name, count in named)
        raise InputError(f"{folder}: contains {len(series)} series ({listed}). Put the one you want in its own folder.")
    return images


def _has_frames(header: Any) -> bool:
    return "PerFrameFunctionalGroupsSequence" in header


def _copies(images: dict[Path, Any]) -> list[tuple[Path, Path]]:
    """Return files that repeat another one byte for byte, each with the first of them."""
    alike: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path, header in images.items():
        alike[str(header.get("SOPInstanceUID")), str(header.get("ImagePositionPatient"))].append(path)
    found = []
    for paths in alike.values():
        for k, path in enumerate(paths):
            if first := next((one for one in paths[:k] if filecmp.cmp(one, path, shallow=False)), None):
                found.append((path, first))
    return found


def _said(paths: Sequence[Path], role: str) -> str:
    return f"{len(paths)} file{'s' if len(paths) > 1 else ''} ({role}), such as {paths[0].name}"

"""What files a VRT names. It must name images in files alone, below the folder of the data set where it was found.

GDAL takes names of elements for attributes and the other way round, in capitals or small letters, so all names and
texts of the document are looked at.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from mlla_seg.data.formats.drivers import BESIDE, holds_pixels, require_file
from mlla_seg.data.formats.locations import REMOTE
from mlla_seg.errors import InputError, about

ANYWHERE = re.compile(r"[/\\]vsi|://", re.IGNORECASE)
NAMES = {"sourcefilename", "sourcedataset", "overview_file", "x_dataset", "y_dataset", "cutlinedsname", "rpcdem"}
"""Elements, attributes and keys, in small letters, whose text is the name of a file."""
TEXTS = {"description", "category", "srs", "gcpprojection", "sourcesrs", "targetsrs"}
"""Elements that GDAL shows and does not open."""
RAW = "vrtrawrasterband"
DEEPEST = 64
"""Levels of elements, and of VRTs within VRTs; GDAL follows them by recursion."""


def require_local(path: Path, root: Path | None = None) -> list[Path]:
    """Check that a raster stands for no other files than local ones, such as a VRT of addresses does.

    Args:
        path: The raster.
        root: Folder of the data set in which it was found, which it must not leave; None if the user has typed it.

    Returns:
        The raster and all files that it names, directly or through others.

    Raises:
        InputError: Names the file and the first such place.
    """
    seen: dict[Path, int] = {}
    pending = [(path, 0)]
    while pending:
        file, depth = pending.pop()
        if file in seen:
            continue
        seen[file] = depth
        if depth and root is not None and not file.resolve().is_relative_to(root.resolve()):
            raise InputError(
                f"{path}: names {file}, outside of {root}, where the VRT was found. Type its path as the input, or "
                "move the file there."
            )
        if depth and not file.exists():  # reading it tells
            continue
        with about(f"{path}: names a file that cannot be read") if depth else nullcontext():
            require_file(file)
        for beside in _beside(file):
            _require_quiet(path, beside)
        if holds_pixels(file):
            continue
        sources = _sources(path, file, found=root is not None)
        if depth == DEEPEST:
            raise InputError(f"{path}: names VRTs within VRTs, more than {DEEPEST} deep. Build it from the images.")
        pending += [(source, depth + 1) for source in sources]
    return list(seen)


def _beside(file: Path) -> Iterator[Path]:
    """Yield the files that GDAL opens together with a raster."""
    for ending in (*BESIDE, ".aux.xml", ".ovr.aux.xml", ".msk.aux.xml"):
        for name in (file.name + ending, file.stem + ending):
            if (beside := file.with_name(name)).exists() and beside != file:
                yield beside


def _require_quiet(path: Path, beside: Path) -> None:
    """Raise if a file beside a raster leads elsewhere."""
    require_file(beside)
    if beside.suffix.lower() == ".xml":
        for _, key, text in _texts(_parsed(path, beside)):
            if (key in NAMES and REMOTE.match(text)) or _leads_away(key, text):
                raise InputError(f"{path}: {beside.name} beside it names {text[:80]}, which is not a file. Remove it.")
    elif not holds_pixels(beside):
        raise InputError(f"{path}: {beside.name} beside it is no image. Remove it.")


def _sources(path: Path, file: Path, found: bool) -> list[Path]:
    """Return the files that a VRT names.

    Raises:
        InputError: It is something else, or it names what is no file.
    """
    with file.open("rb") as opened:
        head = opened.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"{"):
        raise InputError(f"{path}: {file.name} is a text (JSON), not an image.")
    if not head.startswith(b"<"):
        if file == path or not found:  # its driver says what is wrong
            return []
        raise InputError(f"{path}: names {file.name}, which is no image of a known format. Save it as GeoTIFF.")
    document = _parsed(path, file)
    if document.tag != "VRTDataset":
        raise InputError(f"{path}: {file.name} describes a service ({document.tag}), not an image.")
    sources = []
    for element, key, text in _texts(document):
        if text.lower() == RAW:
            raise InputError(f"{path}: {file.name} has a raw band, which shows any file as pixels. Save it as GeoTIFF.")
        if (key in NAMES and (text.startswith("<") or REMOTE.match(text))) or _leads_away(key, text):
            raise InputError(
                f"{path}: names {text[:80]}, which is not a file. Only files may be named in a VRT; type other places "
                "as the input."
            )
        if key in NAMES and text:
            sources.append(file.parent / text if _is_relative(element) else Path(text))
    return sources


def _leads_away(key: str, text: str) -> bool:
    return key not in TEXTS and ANYWHERE.search(text) is not None


def _is_relative(element: xml.Element) -> bool:
    """Return whether the name in an element is relative to the folder of its VRT."""
    facts = [*element.items(), *((child.tag, child.text or "") for child in element)]
    return any(key.lower() == "relativetovrt" and value.strip() not in ("0", "") for key, value in facts)


def _texts(document: xml.Element) -> Iterator[tuple[xml.Element, str, str]]:
    """Yield all texts of a document: the element, the name of element, attribute or key in small letters, and the text.

    Of metadata only the names of files are yielded: they hold addresses of authors and schemas too, which GDAL shows.
    """
    inside = {id(element) for metadata in document.iter("Metadata") for element in metadata.iter()}
    for element in document.iter():
        keyed = (element.get("key") or "").lower() if element.tag == "MDI" else element.tag.lower()
        texts = [(keyed, element.text or ""), *((key.lower(), value) for key, value in element.items())]
        for key, text in texts:
            if key in NAMES or id(element) not in inside:
                yield element, key, text.strip()


def _parsed(path: Path, file: Path) -> xml.Element:
    """Return the root element of an XML file.

    Raises:
        InputError: It is damaged, it defines entities, or its elements are nested too deep.
    """
    content = file.read_bytes().lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        text = content.decode()  # whatever encoding it declares, as GDAL does
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if "<!doctype" in text.lower():
        raise InputError(f"{path}: {file.name} defines XML entities (DOCTYPE), which images do not need.")
    try:
        document = xml.fromstring(text)
    except (xml.ParseError, ValueError) as error:
        kind = "vrt" if file == path else "xml"
        raise InputError(
            f"{file}: cannot be read as .{kind} ({error}). Is it complete? Copy or download it again."
        ) from error
    level = [document]
    for _ in range(DEEPEST):
        level = [child for element in level for child in element]
    if level:
        raise InputError(f"{path}: the elements of {file.name} are nested more than {DEEPEST} deep.")
    return document

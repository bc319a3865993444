"""Locations of rasters: files, and places that GDAL opens by itself, which only the user may name.

Archives (``/vsizip/...``), buckets (``/vsis3/...``), addresses (``https://...``) and names with a driver
(``NETCDF:...``) are left to GDAL where the user types them. A file must not name them: whoever opens a downloaded
mosaic does not expect it to reach into the network.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as xml
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mlla_seg.errors import InputError

REMOTE = re.compile(r"/vsi|[A-Za-z][\w+.-]+://|[A-Z][A-Z0-9_]{2,}:")


@dataclass(frozen=True)
class Remote:
    """A place that GDAL opens by itself. Its text is kept as it is, where a path would turn ``//`` into ``/``."""

    text: str

    def __str__(self) -> str:
        return self.text.split("?")[0]  # without the signature of an address

    @property
    def name(self) -> str:
        """Last part, such as the name of a file."""
        return re.split(r"[/:\\]", str(self).rstrip('/"'))[-1].strip('"')


Location: TypeAlias = Path | Remote


def located(text: str | Path) -> Location:
    """Return the location that a user has typed."""
    if isinstance(text, Path) or Path(text).exists() or not REMOTE.match(text):
        return Path(text)
    return Remote(text)


def require_local(path: Path) -> None:
    """Raise if a file stands for other files that lie elsewhere than in the file system, such as a VRT of addresses.

    Raises:
        InputError: Names the file and the first such place, or the STAC item.
    """
    pending, seen = [path], set()
    while pending:
        file = pending.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        with file.open("rb") as opened:
            head = opened.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
        if head.startswith(b"{"):
            raise InputError(f"{path}: {file.name} is a text (JSON), not an image.")
        if head.startswith(b"<"):
            pending += _sources(path, file)


def _sources(path: Path, file: Path) -> list[Path]:
    """Return the files that a VRT names."""
    try:
        root = xml.parse(file).getroot()
    except xml.ParseError as error:
        raise InputError(
            f"{file}: cannot be read as .vrt ({error}). Is it complete? Copy or download it again."
        ) from error
    if root.tag != "VRTDataset":
        raise InputError(f"{path}: {file.name} describes a service ({root.tag}), not an image.")
    found = []
    for element in root.iter():
        if element.tag not in ("SourceFilename", "SourceDataset"):
            continue
        name = (element.text or "").strip()
        if name.startswith("<") or REMOTE.match(name):
            raise InputError(
                f"{path}: names {name[:80]}, which is not a file. Only files may be named in a VRT; type other places "
                "as the input."
            )
        beside = element.get("relativeToVRT", element.get("relativetoVRT")) == "1"
        found.append(file.parent / name if beside else Path(name))
    return found


def refuse_stac(path: Path) -> None:
    """Raise for a STAC item, with the places of its images.

    Raises:
        InputError: Names them.
    """
    try:
        item = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    if not isinstance(item, dict) or "stac_version" not in item:
        return
    assets = dict(item.get("assets") or {})
    places = [f"{name}: {dict(asset).get('href')}" for name, asset in assets.items()]
    raise InputError(
        f"{path}: is a STAC item, which names its images. Give these as the input, with commas between bands: "
        f"{', '.join(places[:12]) or 'it names none'}{', ...' if len(places) > 12 else ''}."
    )

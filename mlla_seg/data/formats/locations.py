"""Locations of rasters: files, and places that GDAL opens by itself, which only the user may name.

Archives (``/vsizip/...``), buckets (``/vsis3/...``), addresses (``https://...``) and names with a driver
(``NETCDF:...``) are left to GDAL where the user types them. A file must not name them: whoever opens a downloaded
mosaic does not expect it to reach into the network; see ``vrt_sources.py``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mlla_seg.errors import InputError
from mlla_seg.texts import read_json

REMOTE = re.compile(r"/vsi|[A-Za-z][\w+.-]+://|[A-Z][A-Z0-9_]{2,}:")
"""Texts that GDAL opens by itself: handlers, addresses, and names with a driver."""


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
    if isinstance(text, Path) or os.path.exists(text) or not REMOTE.match(text):
        return Path(text)
    return Remote(text)


def refuse_stac(path: Path) -> None:
    """Raise for a STAC item, with the places of its images.

    Raises:
        InputError: Names them.
    """
    try:
        item = read_json(path)
    except (OSError, InputError):
        return
    if not isinstance(item, dict) or "stac_version" not in item:
        return
    assets = dict(item.get("assets") or {})
    places = [f"{name}: {dict(asset).get('href')}" for name, asset in assets.items()]
    raise InputError(
        f"{path}: is a STAC item, which names its images. Give these as the input, with commas between bands: "
        f"{', '.join(places[:12]) or 'it names none'}{', ...' if len(places) > 12 else ''}."
    )

"""Opening of stored cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.store.case import StoredCase
from mlla_seg.errors import InputError

KINDS = ("image", "mask", "values", "places")
"""Arrays stored for each case."""


def open_store(card: Card, cases: Sequence[Case], folder: Path) -> list[StoredCase]:
    """Return the stored cases, in the order of ``cases``."""
    opened = []
    for case in cases:
        entry = stored(folder, case.name)
        if not entry:
            raise InputError(f"{folder} has no arrays of {case.name}. Run the command again to build them.")
        spacing = tuple(entry["spacing_mm"]) if entry["spacing_mm"] else None
        place, moments = entry["ground"], entry["moments"]
        ground = Ground(place["crs"], tuple(place["transform"]), tuple(place["shape"])) if place else None
        facts = (
            tuple(entry["shape"]),
            tuple(entry["voxels"]),
            spacing,
            ground,
            entry["warped"],
            tuple(entry["notes"]),
            moments and (np.array(moments[0], np.float32), np.array(moments[1], np.float32)),
        )
        opened.append(StoredCase(case.name, folder / case.name, *facts))
    return opened


def stored(folder: Path, name: str) -> dict[str, Any]:
    """Read the JSON of a case; empty if any of its files is missing or damaged."""
    if not all((folder / f"{name}.{kind}.npy").is_file() for kind in KINDS):
        return {}
    try:
        return json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        return {}

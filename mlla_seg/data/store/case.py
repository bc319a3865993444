"""A case in the store, whose arrays are opened on access."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from mlla_seg.data.blocks import Part
from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.formats.picture import Array
from mlla_seg.errors import InputError

Kind: TypeAlias = Literal["image", "mask", "values", "places"]
KINDS: tuple[Kind, ...] = ("image", "mask", "values", "places")
"""Arrays stored for each case."""
Stamp: TypeAlias = tuple[int, int, int]
"""Size in bytes, time of modification (mtime) and time of change (ctime) of a file, in ns.

Any user may set the former time, but nobody the latter.
"""


def stamp_of(path: str | Path) -> Stamp:
    """Return the stamp of a file."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class StoredCase:
    """A case in the store. Arrays are opened on access, so it is cheap to pass to worker processes."""

    name: str
    stem: Path
    shape: tuple[int, int, int, int]
    """Slices, channels, height, width."""
    voxels: tuple[int, ...]
    """Voxels per class, without ignored ones."""
    spacing_mm: tuple[float, float, float] | None
    ground: Ground | None = None
    """Georeference of a scene, if its file has one."""
    warped: Mapping[str, float] = field(default_factory=dict)
    """Files that were on another grid than the image and have been warped to it, and the fraction that each covers."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the headers of its image were interpreted."""
    moments: tuple[Array, Array] | None = None
    """Mean and standard deviation of each channel, if the card standardises whole cases."""

    stamps: Mapping[Kind, Stamp] = field(default_factory=dict)
    """Stamps of the arrays when the case was opened."""
    part: Part | None = None
    """Blocks of a scene that form the case, if these are divided among the splits."""
    own: int | None = None
    """Pixels of these blocks, without those of the gap."""

    # Copy-on-write, as torch expects writable arrays; changes stay in memory.
    def image(self) -> Array:
        return np.load(self._path("image"), mmap_mode="c")

    def mask(self) -> Array:
        return np.load(self._path("mask"), mmap_mode="c")

    def values(self) -> Array:
        """Return a sample ``(C, n)`` of the image's values, for statistics of the data set."""
        return np.load(self._path("values"))

    def places(self) -> Array:
        """Return sampled pixels of every class as rows of class, slice, row and column."""
        return np.load(self._path("places"))

    def _path(self, kind: Kind) -> str:
        """Return the file of an array.

        Raises:
            InputError: It is gone, or another than the one that was opened.
        """
        path = f"{self.stem}.{kind}.npy"
        try:  # the time of change is left out: programs for backups set it
            same = kind not in self.stamps or stamp_of(path)[:2] == self.stamps[kind][:2]
        except FileNotFoundError:
            same = False
        if not same:
            raise InputError(
                f"{path}: another process has replaced or removed this array since the start, for instance as its "
                "sources have changed. Start again."
            )
        return path

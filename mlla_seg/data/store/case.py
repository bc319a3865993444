"""A case in the store, whose arrays are opened on access."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.formats.picture import Array


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

    # Copy-on-write, as torch expects writable arrays; changes stay in memory.
    def image(self) -> Array:
        return np.load(f"{self.stem}.image.npy", mmap_mode="c")

    def mask(self) -> Array:
        return np.load(f"{self.stem}.mask.npy", mmap_mode="c")

    def values(self) -> Array:
        """Return a sample ``(C, n)`` of the image's values, for statistics of the data set."""
        return np.load(f"{self.stem}.values.npy")

    def places(self) -> Array:
        """Return sampled pixels of every class as rows of class, slice, row and column."""
        return np.load(f"{self.stem}.places.npy")

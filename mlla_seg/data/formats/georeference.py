"""Georeference of rasters, and detection of scenes that overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlla_seg.data.formats.picture import Array
from mlla_seg.progress import note

POINTS = 64
"""Points along each side of a scene that are tested for overlap."""


@dataclass(frozen=True)
class Ground:
    """Georeference of a raster."""

    crs: str | None
    """Coordinate reference system as well-known text; None if only the geotransform is known."""
    transform: tuple[float, ...]
    """Six numbers a, b, c, d, e, f: x = a column + b row + c, y = d column + e row + f."""
    shape: tuple[int, int]
    """Height and width in pixels."""


class Placed(Protocol):
    """Something with a name and possibly a georeference."""

    @property
    def name(self) -> str: ...
    @property
    def ground(self) -> Ground | None: ...


def coordinates(ground: Ground, columns: Array, rows: Array) -> tuple[Array, Array]:
    """Convert positions in pixels, 0 at the outer edge of the first, to x and y."""
    a, b, c, d, e, f = ground.transform
    return a * columns + b * rows + c, d * columns + e * rows + f


def overlap(scene: Ground, other: Ground) -> float:
    """Return the fraction of the pixels of ``other`` inside ``scene``, estimated on a grid including its border."""
    rows, columns = (np.linspace(0.5, n - 0.5, min(n, POINTS)) for n in other.shape)
    x, y = coordinates(other, *(places.ravel() for places in np.meshgrid(columns, rows)))
    if scene.crs != other.crs:
        if scene.crs is None or other.crs is None:
            return 0.0
        from rasterio.warp import transform

        x, y = map(np.asarray, transform(other.crs, scene.crs, x, y))
    a, b, c, d, e, f = scene.transform
    column, row = np.linalg.inv([[a, b], [d, e]]) @ np.stack([x - c, y - f])
    return float(np.mean((column > 0) & (column < scene.shape[1]) & (row > 0) & (row < scene.shape[0])))


def overlapping(scenes: Sequence[Placed], others: Sequence[Placed]) -> list[tuple[str, str, float]]:
    """Return overlapping scenes of two splits in pairs, with the fraction of the second that is inside the first."""
    placed, tested = ([scene for scene in group if scene.ground is not None] for group in (scenes, others))
    if not placed or not tested:
        return []
    low, high = _boxes(placed)
    other_low, other_high = _boxes(tested)
    near = np.all((low[:, None] < other_high) & (other_low < high[:, None]), axis=2)
    pairs = []
    for i, j in zip(*near.nonzero(), strict=True):
        a, b = placed[i], tested[j]
        if a.ground and b.ground and (share := overlap(a.ground, b.ground)) > 0:
            pairs.append((a.name, b.name, share))
    return sorted(pairs, key=lambda pair: -pair[2])


def note_overlaps(splits: Mapping[str, Sequence[Placed]]) -> None:
    """Note overlapping scenes of different splits, whose scores are too optimistic."""
    names = list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            pairs = overlapping(splits[first], splits[second])
            if pairs:
                a, b, share = pairs[0]
                more = f", and {len(pairs) - 1} more such pairs" if len(pairs) > 1 else ""
                percent = f"{share:.0%}" if share >= 0.01 else "under 1%"
                note(
                    f"note: {b} ({second}) overlaps {a} ({first}) on the ground, {percent} of it{more}: its scores are "
                    "too optimistic there. Crop the scenes, or put both in one split."
                )


def _boxes(scenes: Sequence[Placed]) -> tuple[Array, Array]:
    """Return lowest and highest coordinates ``(n, 2)`` of scenes, in degrees if they have a CRS."""
    boxes = []
    for scene in scenes:
        assert scene.ground is not None
        height, width = scene.ground.shape
        x, y = coordinates(scene.ground, np.array([0, width, 0, width]), np.array([0, 0, height, height]))
        box = (x.min(), y.min(), x.max(), y.max())
        if scene.ground.crs is not None:
            from rasterio.warp import transform_bounds

            try:
                box = transform_bounds(scene.ground.crs, "EPSG:4326", *box)
            except Exception:  # coordinates outside its CRS: it overlaps nothing
                box = (np.nan,) * 4
        boxes.append(box)
    corners = np.array(boxes)
    return corners[:, :2], corners[:, 2:]

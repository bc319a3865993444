"""Checks of labels as polygons over all scenes: what is burned, what is left out, and what lies outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.formats.burning import PIXELS, Canvas
from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.raster_grids import extent_of
from mlla_seg.data.formats.vector_sources import Layer, is_vector, open_layer
from mlla_seg.data.polygon_labels import Survey, classes_by_value, listed, survey
from mlla_seg.data.store.case import StoredCase
from mlla_seg.errors import InputError
from mlla_seg.progress import note


def check_polygons(card: Card, cases: Sequence[Case], stored: Sequence[StoredCase]) -> None:
    """Note what becomes of the polygons that label the scenes, and raise if they lie elsewhere.

    Args:
        card: Card of the data.
        cases: The cases of all splits.
        stored: The same cases in the store.

    Raises:
        InputError: No polygon of a file touches any of its images.
    """
    scenes: dict[Path, list[StoredCase]] = {}
    for case, kept in zip(cases, stored, strict=True):
        for path in case.masks:
            if is_vector(path) and (case.part is None or kept.ground is not None):  # the training part has the ground
                scenes.setdefault(path, []).append(kept)
    layers = {path: open_layer(path, card.layout.layer, card.layout.attribute) for path in scenes}
    surveys = {path: survey(layer) for path, layer in layers.items()}
    for said in [*_noted(surveys), *_unnamed(card, layers, surveys), *_placed(card, layers, surveys, scenes)]:
        note(f"note: {said}.")


def advice_on_polygons(card: Card, path: Path) -> str:
    """Say which values the polygons of a file have, for labels in which there is nothing to learn."""
    layer = open_layer(path, card.layout.layer, card.layout.attribute)
    found = survey(layer)
    if card.layout.attribute is None:
        return f"{path.name} has {found.polygons} polygons: check that they lie on the training images."
    return (
        f"The polygons of {path.name} have these values of {card.layout.attribute}: {listed(found.values) or 'none'}. "
        "Compare them with the values of the card's classes, and the split with where they lie."
    )


def _noted(surveys: Mapping[Path, Survey]) -> list[str]:
    """Return notes on what is in the files beside plain polygons."""
    said = []
    empty = {path: found.empty for path, found in surveys.items() if found.empty}
    if empty:
        said.append(f"{_sum(empty)} features have no geometry and label nothing")
    if unread := {path: sum(found.unread.values()) for path, found in surveys.items() if found.unread}:
        which = _listed([surveys[path].unread for path in unread])
        said.append(f"{_sum(unread)} features have geometries that are not read and label nothing ({which})")
    if others := {path: found.others for path, found in surveys.items() if found.others}:
        said.append(f"only polygons are labels, so {_listed(others.values())} in {_files(others)} are left out")
    if invalid := {path: found.invalid for path, found in surveys.items() if found.invalid}:
        said.append(
            f"{_sum(invalid)} polygons cross or touch their own outline; what it surrounds twice is outside, as for "
            "GDAL"
        )
    return said


def _unnamed(card: Card, layers: Mapping[Path, Layer], surveys: Mapping[Path, Survey]) -> list[str]:
    """Return a note on polygons with values that no class names, or that are ignored."""
    if card.layout.attribute is None:
        return []
    unknown: Counter[str] = Counter()
    for path, found in surveys.items():
        known = classes_by_value(card, layers[path])
        unknown.update({value: count for value, count in found.values.items() if value not in known})
    become = "are excluded from training and scores" if card.layout.others == "ignore" else "label nothing"
    attribute = card.layout.attribute
    return [f"{sum(unknown.values())} polygons with another {attribute} {become}: {listed(unknown)}"] if unknown else []


def _placed(
    card: Card,
    layers: Mapping[Path, Layer],
    surveys: Mapping[Path, Survey],
    scenes: Mapping[Path, Sequence[StoredCase]],
) -> list[str]:
    """Return notes on polygons outside all images or between their pixels, and on images without a polygon."""
    outside: dict[Path, int] = {}
    between: dict[Path, int] = {}
    without: list[str] = []
    for path, layer in layers.items():
        touched = burned = np.zeros(0, np.int64)
        for scene in scenes[path]:
            found, holding = _touching(layer, scene)
            without += [scene.name] if not len(found) else []
            touched, burned = np.union1d(touched, found), np.union1d(burned, found[holding])
        if surveys[path].polygons and not len(touched):
            raise InputError(_elsewhere(layer, scenes[path]))
        outside[path] = max(0, layer.count - len(touched) - surveys[path].empty)
        between[path] = 0 if surveys[path].others else len(touched) - len(burned)  # not of points and lines
    said = []
    if not card.layout.all_touched and (small := {path: count for path, count in between.items() if count}):
        said.append(
            f"{_sum(small)} polygons are so small that they hold no pixel's centre and label nothing; all_touched: "
            "true in the card's layout labels each pixel that a polygon touches"
        )
    if lost := {path: count for path, count in outside.items() if count}:
        total = sum(layer.count for layer in layers.values())
        said.append(f"{_sum(lost)} of {total} polygons lie outside the images in use")
    if without:
        count = sum(map(len, scenes.values()))
        said.append(f"{len(without)} of {count} scenes, such as {without[0]}, have no polygon")
    return said


def _touching(layer: Layer, scene: StoredCase) -> tuple[Array, Array]:
    """Return the ids of the features that touch a scene, and whether the bounds of each hold the centre of a pixel."""
    height, width = scene.shape[2:]
    canvas = Canvas.of(scene.ground, layer, scene.name)
    found = [layer.touching(box) for box in canvas.boxes(0, 0, height, width)]
    ids, (left, bottom, right, top) = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    corners = np.array([(left, bottom), (left, top), (right, bottom), (right, top)])
    pixels = canvas.pixels(np.moveaxis(corners, 1, 2).reshape(-1, 2)).reshape(4, -1, 2)
    first, last = np.ceil(pixels.min(axis=0) - 0.5), np.floor(pixels.max(axis=0) - 0.5)
    ids, places = np.unique(ids, return_index=True)
    return ids, (first <= last).all(axis=1)[places]


def _elsewhere(layer: Layer, scenes: Sequence[StoredCase]) -> str:
    """Return the message for polygons of which none touches an image."""
    west, south, east, north = layer.bounds()
    crs = layer.crs or "no CRS"
    own = f"x {west:.9g} to {east:.9g}, y {south:.9g} to {north:.9g} ({crs if len(crs) < 30 else 'a CRS of its own'})"
    ground = scenes[0].ground or PIXELS
    place = extent_of(Ground(ground.crs, ground.transform, (scenes[0].shape[2], scenes[0].shape[3])))
    more = f" and {len(scenes) - 1} others" if len(scenes) > 1 else ""
    return (
        f"{layer.path}: none of its {layer.count} polygons touches {scenes[0].name}{more}: they lie at {own}, "
        f"the image at {place}. Pair the right files, or correct the CRS or the order of the coordinates of one."
    )


def _listed(counts: Iterable[Mapping[str, int]]) -> str:
    """Return numbers by type: ``2 Point, 1 LineString``."""
    total: Counter[str] = Counter()
    for own in counts:
        total.update(own)
    return ", ".join(f"{count} {kind}" for kind, count in total.items())


def _sum(counts: Mapping[Path, int]) -> str:
    """Return where something is and how often: ``in labels.gpkg, 3``."""
    return f"in {_files(counts)}, {sum(counts.values())}"


def _files(found: Mapping[Path, object]) -> str:
    first = next(iter(found)).name
    return first if len(found) == 1 else f"{len(found)} files, such as {first}"

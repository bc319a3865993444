"""Memory-mapped store of decoded cases, built once per data set, so that training never decodes gzip or npz.

A case is stored as ``<case>.image.npy`` ``(S, C, H, W)``, ``<case>.mask.npy`` ``(S, H, W)`` with class indices,
``<case>.values.npy`` and ``<case>.places.npy`` with samples of its values and class positions, and ``<case>.json`` with
the fingerprint of its sources and its georeference. Files are written under temporary names and the JSON last, so an
interrupted build resumes. A case is rebuilt when its sources, or the way of reading them, change.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from mlla_seg.atomic import renamed_when_done
from mlla_seg.data.card import Card
from mlla_seg.data.cases import Case
from mlla_seg.data.dataspec import Normalisation
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.georeference import Ground
from mlla_seg.data.formats.geotiff import COVERED
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.planes import PLANES
from mlla_seg.data.formats.raster_grids import pixel_size
from mlla_seg.data.formats.volumes import coarsest_axis
from mlla_seg.data.reading import open_case
from mlla_seg.data.regions import written_as
from mlla_seg.data.sampling import class_places, statistics, value_sample
from mlla_seg.data.schemes import normalisation_of, per_case
from mlla_seg.data.slices import View
from mlla_seg.errors import InputError, about

VERSION = 8
"""Increased when the meaning of the stored arrays changes, so that older ones are rebuilt."""
THREADS = 4
KINDS = ("image", "mask", "values", "places")
"""Arrays stored for each case."""


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


def build_store(card: Card, cases: Sequence[Case], root: Path, folder: Path) -> None:
    """Update the store in ``folder`` from its sources, with a progress bar.

    Raises:
        InputError: Some cases cannot be used; names them and the reasons. All other cases are stored.
    """
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    stale = [case for case in cases if _stored(folder, case.name).get("fingerprint") != _fingerprint(card, case, root)]
    if not stale:
        return
    problems = []
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        jobs = [pool.submit(_build_case, card, case, root, folder) for case in stale]
        for job in tqdm(jobs, desc=f"Preparing {card.name}", unit="case", leave=False):
            try:
                job.result()
            except InputError as error:
                problems.append(str(error))
    if problems:
        more = f"\n... and {len(problems) - 5} more" if len(problems) > 5 else ""
        count = f"{len(problems)} of {len(cases)} cases cannot be used:\n" if len(problems) > 1 else ""
        raise InputError(count + "\n".join(problems[:5]) + more)


def open_store(card: Card, cases: Sequence[Case], folder: Path) -> list[StoredCase]:
    """Return the stored cases, in the order of ``cases``."""
    opened = []
    for case in cases:
        entry = _stored(folder, case.name)
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


def check_class_sizes(card: Card, cases: Sequence[StoredCase]) -> None:
    """Detect masks that number the classes in another order than the card, by the largest and the smallest class.

    An unexpected smallest class is only noted, as it may be due to few cases.

    Raises:
        InputError: The largest class is not that of the card.
    """
    if not cases:
        return
    totals = np.sum([case.voxels for case in cases], axis=0)
    foreground = [k for k, name in enumerate(card.class_names) if name != card.background]
    largest, smallest = (card.class_names[choose(foreground, key=lambda k: totals[k])] for choose in (max, min))
    if card.largest_class not in (None, largest):
        raise InputError(
            f"{card.name}: by the card's class ids the largest class is {largest}, expected "
            f"{card.largest_class}; the masks number the classes in another order. Reorder `classes` in the card."
        )
    if card.smallest_class not in (None, smallest):
        print(
            f"note: by the class ids of {card.name} the smallest class is {smallest}, expected {card.smallest_class}. "
            "Check that the masks number the classes in the card's order.",
            file=sys.stderr,
        )


def note_merged_classes(card: Card) -> None:
    """Note classes that no region tells apart, so that predicted masks hold another class in their place."""
    names, regions = card.class_names, card.region_infos
    merged = [(k, written) for k in range(len(names)) if (written := written_as(k, regions)) != k]
    if regions and merged:
        pairs = ", ".join(f"{names[k]} as {names[written]}" for k, written in merged)
        print(f"note: by regions_class_order of {card.name} masks are written with {pairs}.", file=sys.stderr)


def note_warped(cases: Sequence[StoredCase]) -> None:
    """Note files that are on another grid than their image, and those that cover only a part of it."""
    warped = [(name, share, case.ground) for case in cases for name, share in case.warped.items()]
    if warped:
        name, _, ground = warped[0]
        size = f" ({pixel_size(ground)})" if ground else ""
        print(
            f"note: {len(warped)} files lie on another grid than their image and are warped to it, such as {name} to "
            f"the pixels of its image{size}.",
            file=sys.stderr,
        )
    partial = sorted((share, name) for name, share, _ in warped if share < COVERED)
    if partial:
        share, name = partial[0]
        print(
            f"note: {len(partial)} of these cover only a part of their image, such as {name} with {share:.0%} of it. "
            "The rest is excluded from training and scores.",
            file=sys.stderr,
        )


def note_ignored(card: Card, cases: Sequence[StoredCase]) -> None:
    """Note how many pixels are excluded from training and scores, and cases of which every pixel is."""
    sizes = [case.shape[0] * case.shape[2] * case.shape[3] for case in cases]
    left_out = {case.name: size - sum(case.voxels) for case, size in zip(cases, sizes, strict=True)}
    if names := [name for name, count in left_out.items() if count]:
        value = "" if card.ignore_index is None or card.layout.coloured_masks else f", mask value {card.ignore_index}"
        print(
            f"note: {sum(left_out.values()):,} pixels ({sum(left_out.values()) / sum(sizes):.1%}) in {len(names)} of "
            f"{len(cases)} cases of {card.name}, such as {names[0]}, are ignored (no data{value}).",
            file=sys.stderr,
        )
    if names := [case.name for case in cases if not any(case.voxels)]:
        print(
            f"note: {len(names)} of {len(cases)} cases of {card.name}, such as {names[0]}, have no pixel with a class "
            "and data: all are excluded from training and scores.",
            file=sys.stderr,
        )


def measured_spacing(card: Card, cases: Sequence[StoredCase]) -> list[float | None] | None:
    """Return the card's ``spacing_mm`` with numbers in place of ``median``, or None if no case has a known spacing.

    The median is taken over all splits, so that it is the same for every fold of a cross-validation.
    """
    known = [case.spacing_mm for case in cases if case.spacing_mm]
    if not card.spacing_mm or not known:
        return None
    return [
        float(f"{median:.4g}") if isinstance(step, str) else step  # "median"
        for step, median in zip(card.spacing_mm, np.median(known, axis=0), strict=True)
    ]


def note_resampled(card: Card, cases: Sequence[StoredCase], target: Sequence[float | None] | None) -> None:
    """Note how many volumes are resampled to another spacing for the network."""
    names = [
        case.name
        for case in cases
        if target and case.spacing_mm
        if any(step and abs(own / step - 1) > 0.01 for own, step in zip(case.spacing_mm, target, strict=True))
    ]
    if names:
        steps = " x ".join("original" if step is None else f"{step:g} mm" for step in target or ())
        print(
            f"note: {len(names)} of {len(cases)} volumes of {card.name}, such as {names[0]}, are resampled for "
            f"the network to {steps} (slices, rows, columns). Masks are written on the original grid.",
            file=sys.stderr,
        )


def note_planes(card: Card, cases: Sequence[StoredCase]) -> None:
    """Note how many volumes are not sliced along their coarsest axis, if the card fixes the plane."""

    def across(case: StoredCase) -> bool:
        slices, _, height, width = case.shape
        return bool(case.spacing_mm) and coarsest_axis(case.spacing_mm or (), (slices, height, width)) in (1, 2)

    names = [case.name for case in cases if card.plane in PLANES and across(case)]
    if names:
        print(
            f"note: {len(names)} of {len(cases)} volumes of {card.name}, such as {names[0]}, are not sliced along "
            f"their coarsest axis (plane: {card.plane}). Use --data.plane acquired to do so.",
            file=sys.stderr,
        )


def _stored(folder: Path, name: str) -> dict[str, Any]:
    """Read the JSON of a case; empty if any of its files is missing or damaged."""
    if not all((folder / f"{name}.{kind}.npy").is_file() for kind in KINDS):
        return {}
    try:
        return json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        return {}


def _fingerprint(card: Card, case: Case, root: Path) -> str:
    files = [file for path in case.files for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    sources = [(str(path.relative_to(root)), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    masks = [getattr(card.layout, key) for key in ("coloured_masks", "ignored_colours", "mask_threshold")]
    counted = [card.under_masks, per_case([*card.schemes.values()])]
    gaps = (card.nodata, card.nodata_rule, card.grid)
    values = (card.array_units, [*card.ids.items()], card.ignore_index, counted, gaps)
    colours = card.layout.coloured_masks and [entry.colour for entry in card.classes]
    reading = (VERSION, card.plane, values, card.class_names, card.bands, card.seen, masks, colours)
    return hashlib.sha256(json.dumps([sources, reading]).encode()).hexdigest()


def _build_case(card: Card, case: Case, root: Path, folder: Path) -> None:
    fingerprint = _fingerprint(card, case, root)
    with ExitStack() as stack:
        temporary = {kind: folder / f".{os.getpid()}.{case.name}.{kind}.npy" for kind in KINDS}
        for path in temporary.values():
            stack.callback(path.unlink, missing_ok=True)
        with open_case(card, case) as source:
            image = open_memmap(temporary["image"], "w+", source.dtype, source.shape)
            mask = open_memmap(temporary["mask"], "w+", np.uint8, (source.shape[0], *source.shape[2:]))
            voxels = np.zeros(256, np.int64)
            for piece in source.pieces:
                slices, _, height, _ = piece.image.shape
                place = (slice(piece.first, piece.first + slices), slice(piece.top, piece.top + height))
                image[place[0], :, place[1]] = piece.image
                mask[place] = piece.labels
                voxels += np.bincount(piece.labels.ravel(), minlength=256)
        counts = voxels[: len(card.classes)].tolist()
        background = card.class_names.index(card.background) if card.background in card.class_names else None
        left_out = (IGNORE_INDEX, background) if card.under_masks else ()
        np.save(temporary["places"], class_places(mask, counts))
        np.save(temporary["values"], value_sample(image, mask, left_out))
        moments = View(per_case=per_case([*card.schemes.values()])).moments(image)
        del image, mask  # flushes them to disk
        entry = {
            "fingerprint": fingerprint,
            "shape": source.shape,
            "voxels": counts,
            "spacing_mm": source.spacing_mm,
            "ground": source.ground and asdict(source.ground),
            "warped": source.warped,
            "notes": source.notes,
            "moments": moments and [value.tolist() for value in moments],
        }
        for kind, path in temporary.items():
            os.replace(path, folder / f"{case.name}.{kind}.npy")
        with renamed_when_done(folder / f"{case.name}.json") as note:
            note.write_text(json.dumps(entry))


def measured_normalisation(card: Card, cases: Sequence[StoredCase]) -> Normalisation:
    """Measure the normalisation of a card on the training cases, as with ``foreground: true`` or ``measured: true``.

    Raises:
        InputError: There are no values to measure.
    """
    values = np.concatenate([case.values() for case in cases], axis=1)
    if values.size == 0:
        what = f"mask contains anything but {card.background}"
        what = what if card.under_masks else "scene has a pixel with data"
        raise InputError(f"{card.name}: no training {what}, so its normalisation cannot be measured.")
    if card.schemes:
        with about(card.name):
            return normalisation_of(card.schemes, values)
    means, stds = zip(*map(statistics, values), strict=True)
    return Normalisation(means, stds)

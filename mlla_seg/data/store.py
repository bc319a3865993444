"""Memory-mapped arrays, built once per data set, so that training never decodes gzip or npz in its loop.

One case is ``<case>.image.npy`` (S, C, H, W), ``<case>.mask.npy`` (S, H, W) of class indices, ``<case>.values.npy`` and
``<case>.places.npy``, samples of its values and of where its classes are, and ``<case>.json``, which says from which
sources it was built. The JSON is written last and everything under a temporary name first, so a build that is killed
goes on where it was, and a case is built again when its sources, or the way of reading them, change.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.cases import Case
from mlla_seg.data.colours import values_of_colours
from mlla_seg.data.io import read_channels, read_mask
from mlla_seg.data.picture import Array, Picture, require_finite, require_same_grid
from mlla_seg.data.spec import Card
from mlla_seg.errors import InputError

VERSION = 4
"""Raised when the meaning of the stored arrays changes, so that old ones are built again."""
THREADS = 4
SAMPLE = 10_000
"""Values per channel that are kept of each case, to measure what a data set is like."""
PLACES = 500
"""Pixels of each class whose places are kept of each case, for balanced sampling."""


@dataclass(frozen=True)
class StoredCase:
    """A case in the store; arrays are opened when they are asked for, so it is cheap to hand to workers."""

    name: str
    stem: Path
    shape: tuple[int, int, int, int]
    """Slices, channels, height, width."""
    voxels: tuple[int, ...]
    """Voxels per class; ignored ones are not counted."""
    spacing_mm: tuple[float, float, float] | None

    def image(self) -> Array:
        return np.load(f"{self.stem}.image.npy", mmap_mode="r")

    def mask(self) -> Array:
        return np.load(f"{self.stem}.mask.npy", mmap_mode="r")

    def values(self) -> Array:
        """A sample ``(C, n)`` of the image's values, to measure what a data set is like."""
        return np.load(f"{self.stem}.values.npy")

    def places(self) -> Array:
        """Pixels of every class, rows of class, slice, row and column."""
        return np.load(f"{self.stem}.places.npy")


def build_store(card: Card, cases: Sequence[Case], root: Path, folder: Path) -> None:
    """Brings the store in ``folder`` up to date with the sources, with a progress bar.

    Raises:
        InputError: Names the cases that cannot be used and why; the others are stored all the same.
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
    """The stored cases, in the order of ``cases``."""
    opened = []
    for case in cases:
        entry = _stored(folder, case.name)
        if not entry:
            raise InputError(f"{folder} has no arrays of {case.name}. Run again; they are built before the first step.")
        spacing = tuple(entry["spacing_mm"]) if entry["spacing_mm"] else None
        opened.append(StoredCase(case.name, folder / case.name, tuple(entry["shape"]), tuple(entry["voxels"]), spacing))
    return opened


def check_class_sizes(card: Card, cases: Sequence[StoredCase]) -> None:
    """Notices class ids in another order than the card's, where it says which class is by far the largest.

    Another smallest class than the card's is only said: it may as well be due to few cases.

    Raises:
        InputError: Another class has the most voxels.
    """
    if not cases:
        return
    totals = np.sum([case.voxels for case in cases], axis=0)
    foreground = [k for k, name in enumerate(card.class_names) if name != card.background]
    largest, smallest = (card.class_names[choose(foreground, key=lambda k: totals[k])] for choose in (max, min))
    if card.largest_class not in (None, largest):
        raise InputError(
            f"{card.name}: by the card's class ids the largest organ is {largest}, but it should be "
            f"{card.largest_class}: the masks number the classes in another order. Reorder `classes` in the card."
        )
    if card.smallest_class not in (None, smallest):
        print(
            f"note: by the class ids of {card.name} the smallest organ is {smallest}, where {card.smallest_class} is "
            "expected. Do the masks number the classes in the card's order?",
            file=sys.stderr,
        )


def note_absent_classes(card: Card, cases: Sequence[StoredCase]) -> None:
    """Says which classes no training mask holds, as when 255 was written for what the card calls 1."""
    totals = np.sum([case.voxels for case in cases], axis=0)
    absent = [name for name, total in zip(card.class_names, totals, strict=True) if total == 0]
    if absent:
        ignored = f" Is it stored as {card.ignore_index}, which is ignored?" if len(absent) == 1 else ""
        print(f"note: no training mask of {card.name} holds {', '.join(absent)}.{ignored}", file=sys.stderr)


def _stored(folder: Path, name: str) -> dict[str, Any]:
    """What the store says of a case; nothing where any of its files is missing or damaged."""
    if not all((folder / f"{name}.{kind}.npy").is_file() for kind in ("image", "mask", "values", "places")):
        return {}
    try:
        return json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        return {}


def _fingerprint(card: Card, case: Case, root: Path) -> str:
    sources = [(str(path.relative_to(root)), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in case.files]
    colours = card.layout.get("coloured_masks") and [card.classes, card.layout.get("ignored_colours")]
    values = (card.array_units, [*card.ids.items()], card.ignore_index, card.normalisation.get("foreground"), colours)
    reading = (VERSION, card.plane, values, card.class_names, card.channels)
    return hashlib.sha256(json.dumps([sources, reading]).encode()).hexdigest()


def _build_case(card: Card, case: Case, root: Path, folder: Path) -> None:
    fingerprint = _fingerprint(card, case, root)
    mask_paths = case.masks or tuple(files[0] for files in case.images)
    entries = [_read_entry(card, files, mask) for files, mask in zip(case.images, mask_paths, strict=True)]
    first = entries[0][0]
    for files, (image, _, _) in zip(case.images, entries, strict=True):
        if image.array.shape[2:] != first.array.shape[2:]:
            raise InputError(
                f"{files[0]}: shape {image.array.shape[2:]} differs from {case.images[0][0].name} with "
                f"{first.array.shape[2:]}; slices of one volume must have one shape."
            )
    arrays = {
        "image": np.concatenate([image.array for image, _, _ in entries]),
        "mask": np.concatenate([labels for _, labels, _ in entries]),
    }
    entry = {
        "fingerprint": fingerprint,
        "shape": arrays["image"].shape,
        "voxels": np.sum([voxels for _, _, voxels in entries], axis=0).tolist(),
        "spacing_mm": first.spacing_mm,
    }
    background = card.class_names.index(card.background) if card.background in card.class_names else None
    valid = [np.ones(labels.shape, bool) if image.valid is None else image.valid for image, labels, _ in entries]
    where = np.concatenate(valid)
    if card.normalisation.get("foreground"):
        where &= (arrays["mask"] != 255) & (arrays["mask"] != background)
    arrays["places"] = _class_places(arrays["mask"])
    arrays["values"] = _value_sample(arrays["image"], where)
    for kind, array in arrays.items():
        temporary = folder / f".{os.getpid()}.{case.name}.{kind}.npy"
        np.save(temporary, np.ascontiguousarray(array))
        os.replace(temporary, folder / f"{case.name}.{kind}.npy")
    temporary = folder / f".{os.getpid()}.{case.name}.json"
    temporary.write_text(json.dumps(entry))
    os.replace(temporary, folder / f"{case.name}.json")


def _read_entry(card: Card, files: tuple[Path, ...], mask_path: Path) -> tuple[Picture, Array, list[int]]:
    """One volume or slice, checked: its image, its labels as stored ``(S, H, W)``, and its voxels per class."""
    image = read_channels(files, card.plane, card.array_units)
    mask = read_mask(mask_path, card.plane)
    if card.layout.get("coloured_masks"):
        mask = replace(mask, array=values_of_colours(mask.array, card, mask_path))
    if mask.array.shape[1] != 1:
        raise InputError(
            f"{mask_path}: has {mask.array.shape[1]} channels; a mask holds one class index per pixel. "
            "Say coloured_masks in the card's layout if these are the colours of its classes."
        )
    require_same_grid(files[0], image, mask_path, mask)
    channels = image.array.shape[1]
    if channels != len(card.channels):
        raise InputError(
            f"{files[0]}: has {channels} channels, the card {card.name} expects {len(card.channels)} "
            f"({', '.join(card.channels)})."
        )
    require_finite(files[0], image)
    labels = mask.array[:, 0]
    for valid in (image.valid, mask.valid):
        if valid is not None:  # what has no data is neither learned nor scored
            labels = np.where(valid, labels, card.ignore_index)
    return image, *_check_mask(card, labels, mask_path)


def _check_mask(card: Card, mask: Array, path: Path) -> tuple[Array, list[int]]:
    """The mask as uint8 and its voxels per class; refuses values that are no class."""
    values, counts = np.unique(mask, return_counts=True)
    ids = card.ids
    wrong = [
        (value, count)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        if value != card.ignore_index and value not in ids
    ]
    if wrong:
        value, count = wrong[0]
        others = f" and {len(wrong) - 1} other such values" if len(wrong) > 1 else ""
        raise InputError(
            f"{path}: mask value {value:g} in {count} voxels{others}; expected {_listed(ids)} "
            f"({', '.join(card.class_names)}) or {card.ignore_index} (ignored). Correct the mask or the card's classes."
        )
    indices = np.array([255 if value == card.ignore_index else ids[value] for value in values.tolist()], np.uint8)
    stored = np.stack([indices[np.searchsorted(values, piece)] for piece in mask])  # by slices, to need little memory
    voxels = np.bincount(indices, weights=counts, minlength=256)[: len(card.classes)].astype(int).tolist()
    return stored, voxels


def _listed(ids: Mapping[int, int]) -> str:
    """Values as ``0 to 8`` where they have no gap."""
    values = sorted(ids)
    return f"0 to {values[-1]}" if values == list(range(len(values))) else ", ".join(map(str, values))


def _value_sample(image: Array, where: Array) -> Array:
    """At most ``SAMPLE`` voxels of ``(S, C, H, W)`` among those of ``(S, H, W)``, evenly drawn: ``(C, n)`` float32."""
    chosen = np.flatnonzero(where)
    chosen = chosen[:: max(1, len(chosen) // SAMPLE)][:SAMPLE]
    slices, rows, columns = np.unravel_index(chosen, where.shape)
    return image[slices, :, rows, columns].T.astype(np.float32)


def _class_places(mask: Array) -> Array:
    """Pixels of every class, at most ``PLACES`` each, evenly drawn: rows of class, slice, row and column, int32."""
    places = []
    for k in sorted({*np.unique(mask).tolist()} - {255}):
        chosen = np.flatnonzero(mask == k)
        chosen = chosen[:: max(1, len(chosen) // PLACES)][:PLACES]
        places.append(np.column_stack([np.full(len(chosen), k), *np.unravel_index(chosen, mask.shape)]))
    return np.concatenate(places).astype(np.int32) if places else np.zeros((0, 4), np.int32)


def measured_normalisation(card: Card, cases: Sequence[StoredCase]) -> dict[str, Any]:
    """The numbers of ``normalisation: {foreground: true}`` or ``{measured: true}``, from the training cases.

    ``foreground``, as in nnU-Net: values under the masks are clipped to their 0.5th and 99.5th percentile, then
    standardised by their mean and standard deviation. ``measured``: mean and standard deviation of each channel.

    Raises:
        InputError: No mask holds anything but background.
    """
    values = np.concatenate([case.values() for case in cases], axis=1).astype(np.float64)
    if values.size == 0:
        raise InputError(f"{card.name}: no training mask holds anything but {card.background}; there is no foreground.")
    std = np.maximum(values.std(axis=1), 1e-6)
    if card.normalisation.get("measured"):
        return {"mean": values.mean(axis=1).tolist(), "std": std.tolist()}
    low, high = np.percentile(values, (0.5, 99.5)).tolist()
    return {"window": [low, high], "mean": float(values.mean()), "std": float(std[0])}

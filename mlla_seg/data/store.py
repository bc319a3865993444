"""Memory-mapped arrays, built once per data set, so that training never decodes gzip or npz in its loop.

One case is three files: ``<case>.image.npy`` (S, C, H, W), ``<case>.mask.npy`` (S, H, W) and ``<case>.json``, which
says from which sources it was built. The JSON is written last and everything under a temporary name first, so a build
that is killed goes on where it was, and a case is built again when its sources, or the way of reading them, change.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.io import Array, Picture, read_images, read_mask, require_same_grid
from mlla_seg.data.layouts import Case
from mlla_seg.data.spec import Card
from mlla_seg.errors import InputError

VERSION = 1
"""Raised when the meaning of the stored arrays changes, so that old ones are built again."""
THREADS = 4


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


def check_largest_class(card: Card, cases: Sequence[StoredCase]) -> None:
    """Notices class ids in another order than the card's, where the card says which class is by far the largest.

    Raises:
        InputError: Another class has the most voxels.
    """
    if card.largest_class is None or not cases:
        return
    totals = np.sum([case.voxels for case in cases], axis=0)
    if card.background in card.class_names:
        totals[card.class_names.index(card.background)] = 0
    largest = card.class_names[int(totals.argmax())]
    if largest != card.largest_class:
        raise InputError(
            f"{card.name}: by the card's class ids the largest organ is {largest} ({totals.max()} voxels), not "
            f"{card.largest_class}: the masks number the classes in another order. Reorder `classes` in the card."
        )


def note_absent_classes(card: Card, cases: Sequence[StoredCase]) -> None:
    """Says which classes no training mask holds, as when 255 was written for what the card calls 1."""
    totals = np.sum([case.voxels for case in cases], axis=0)
    absent = [name for name, total in zip(card.class_names, totals, strict=True) if total == 0]
    if absent:
        ignored = f" Is it stored as {card.ignore_index}, which is ignored?" if len(absent) == 1 else ""
        print(f"note: no training mask of {card.name} holds {', '.join(absent)}.{ignored}", file=sys.stderr)


def _stored(folder: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        return {}


def _fingerprint(card: Card, case: Case, root: Path) -> str:
    sources = [(str(path.relative_to(root)), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in case.files]
    reading = (VERSION, card.plane, card.array_units, card.class_names, card.channels, card.ignore_index)
    return hashlib.sha256(json.dumps([sources, reading]).encode()).hexdigest()


def _build_case(card: Card, case: Case, root: Path, folder: Path) -> None:
    fingerprint = _fingerprint(card, case, root)
    image = read_images(case.images, card.plane, card.array_units)
    mask_paths = case.masks or tuple(files[0] for files in case.images)
    masks = [read_mask(path, card.plane) for path in mask_paths]
    mask = Picture(np.concatenate([m.array for m in masks]), masks[0].spacing_mm, masks[0].affine)
    image_path = case.images[0][0]
    require_same_grid(image_path, image, mask_paths[0], mask)
    slices, channels, height, width = image.array.shape
    if channels != len(card.channels):
        raise InputError(
            f"{image_path}: has {channels} channels, the card {card.name} expects {len(card.channels)} "
            f"({', '.join(card.channels)})."
        )
    if image.array.dtype == np.float32 and not np.isfinite(image.array).all():
        count = int((~np.isfinite(image.array)).sum())
        raise InputError(
            f"{image_path}: {count} of {image.array.size} values are NaN or infinite; repair or leave out the case."
        )
    checked = [_check_mask(card, m.array[:, 0], path) for m, path in zip(masks, mask_paths, strict=True)]
    labels = np.concatenate([stored for stored, _ in checked])
    voxels = np.sum([counts for _, counts in checked], axis=0).tolist()
    entry = {
        "fingerprint": fingerprint,
        "shape": [slices, channels, height, width],
        "voxels": voxels,
        "spacing_mm": image.spacing_mm,
    }
    for kind, array in (("image", image.array), ("mask", labels)):
        temporary = folder / f".{os.getpid()}.{case.name}.{kind}.npy"
        np.save(temporary, np.ascontiguousarray(array))
        os.replace(temporary, folder / f"{case.name}.{kind}.npy")
    temporary = folder / f".{os.getpid()}.{case.name}.json"
    temporary.write_text(json.dumps(entry))
    os.replace(temporary, folder / f"{case.name}.json")


def _check_mask(card: Card, mask: Array, path: Path) -> tuple[Array, list[int]]:
    """The mask as uint8 and its voxels per class; refuses values that are no class."""
    values, counts = np.unique(mask, return_counts=True)
    num_classes = len(card.classes)
    wrong = [
        (value, count)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        if value != card.ignore_index and not (0 <= value < num_classes and value == int(value))
    ]
    if wrong:
        value, count = wrong[0]
        others = f" and {len(wrong) - 1} other such values" if len(wrong) > 1 else ""
        raise InputError(
            f"{path}: mask value {value:g} in {count} voxels{others}; expected 0 to {num_classes - 1} "
            f"({', '.join(card.class_names)}) or {card.ignore_index} (ignored). Correct the mask or the card's classes."
        )
    labels = mask.astype(np.int64)
    voxels = np.bincount(labels[labels != card.ignore_index].ravel(), minlength=num_classes).tolist()
    stored = np.where(labels == card.ignore_index, 255, labels).astype(np.uint8)
    return stored, voxels

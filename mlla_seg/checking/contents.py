"""Facts about the stored arrays of every case, measured in one pass, and findings on suspicious ones."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from mlla_seg.checking.findings import Finding, Severity
from mlla_seg.checking.refusals import looks_like_mask
from mlla_seg.data.card import Card
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.store.case import StoredCase
from mlla_seg.progress import progress

PIXELS = 2**22
"""Pixels that are read at once."""
THREADS = 4


@dataclass(frozen=True)
class Content:
    """Facts about the arrays of a case."""

    image: str
    """Digest of the image."""
    mask: str
    """Digest of the mask."""
    constant: tuple[bool, ...]
    """Whether a channel has a single value, or none at all, by channel."""
    values: tuple[float, ...] | None
    """The distinct values of the image if these are few."""


def contents(cases: Sequence[StoredCase], card: Card) -> dict[str, Content]:
    """Measure the arrays of all cases, in parallel."""
    most = len(card.classes) + 1
    with (
        ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool,
        progress(len(cases), f"Checking {card.name}", "case", leave=False) as bar,
    ):
        jobs = [pool.submit(_measure, case, most) for case in cases]
        found = {}
        for case, job in zip(cases, jobs, strict=True):
            found[case.name] = job.result()
            bar.update()
    return found


def _measure(case: StoredCase, most: int) -> Content:
    image, mask = case.image(), case.mask()
    slices, channels, height, width = image.shape
    rows = max(1, PIXELS // (width * channels))
    digest, mask_digest = (hashlib.blake2b(f"{part.shape}{part.dtype}".encode()) for part in (image, mask))
    low, high = np.full(channels, np.nan), np.full(channels, np.nan)
    values: set[float] | None = set()
    for s in range(slices):
        for top in range(0, height, rows):
            piece = np.ascontiguousarray(image[s, :, top : top + rows])
            digest.update(piece)
            mask_digest.update(np.ascontiguousarray(mask[s, top : top + rows]))
            low = np.fmin(low, np.fmin.reduce(piece, axis=(1, 2)))
            high = np.fmax(high, np.fmax.reduce(piece, axis=(1, 2)))
            values = _more(values, piece, most)
    constant = tuple((~(low < high)).tolist())
    return Content(digest.hexdigest(), mask_digest.hexdigest(), constant, tuple(sorted(values)) if values else None)


def _more(values: set[float] | None, piece: Array, most: int) -> set[float] | None:
    """Add the distinct values of a piece; None once there are more than ``most``."""
    if values is None:
        return None
    for part in (piece[:, ::16, ::16], piece):  # a few pixels mostly suffice to see many values
        found = np.unique(part)
        if len(values.union(found[~np.isnan(found)].tolist())) > most:
            return None
    return values.union(found[~np.isnan(found)].tolist())


def odd_contents(card: Card, cases: Sequence[StoredCase], found: Mapping[str, Content]) -> list[Finding]:
    """Return findings on constant images, images that look like masks, and empty masks."""
    findings = []
    empty = [name for name, content in found.items() if all(content.constant)]
    if empty:
        findings.append(Finding("warning", "constant", "the image has a single value everywhere", tuple(empty)))
    partly = {
        name: [channel for channel, flat in zip(card.seen, content.constant, strict=True) if flat]
        for name, content in found.items()
        if any(content.constant) and name not in empty
    }
    if partly:
        details = tuple(", ".join(channels) for channels in partly.values())
        what = "a channel has a single value everywhere"
        findings.append(Finding("warning", "constant_channel", what, tuple(partly), details))
    masks = [name for name, content in found.items() if content.values and looks_like_mask(content.values, card)]
    if masks:
        details = tuple("values " + ", ".join(f"{v:g}" for v in found[name].values or ()) for name in masks)
        what = "the image has as few values as a mask"
        advice = "Check that images and masks are not swapped."
        findings.append(Finding("warning", "swapped", what, tuple(masks), details, advice))
    unlabelled = [case.name for case in cases if not any(case.voxels)]
    if unlabelled:
        what = "no pixel has both data and a class, so nothing is learnt or scored"
        findings.append(Finding("warning", "unlabelled", what, tuple(unlabelled)))
    if (background := card.background_index) is not None:
        names = [case.name for case in cases if any(case.voxels) and sum(case.voxels) == case.voxels[background]]
        volumes = any(case.shape[0] > 1 for case in cases)
        if names:
            what = f"the mask holds nothing but {card.background}"
            severity: Severity = "warning" if volumes else "info"  # tiles of scenes often show none of the classes
            findings.append(Finding(severity, "empty_mask", what, tuple(names)))
    return findings


def duplicates(by_split: Mapping[str, Sequence[StoredCase]], found: Mapping[str, Content]) -> list[Finding]:
    """Return findings on images with the same content, within a split and in several splits; constant ones aside."""
    groups: dict[str, list[tuple[str, StoredCase]]] = defaultdict(list)
    for split, cases in by_split.items():
        for case in cases:
            if not all(found[case.name].constant):
                groups[found[case.name].image].append((split, case))
    across: list[tuple[str, str]] = []
    within: list[tuple[str, str]] = []
    for group in groups.values():
        (first_split, first), *others = group
        same_scene = {case.part.scene if case.part else case.name for _, case in group}
        for split, case in others if len(same_scene) > 1 else ():
            masks = "" if found[case.name].mask == found[first.name].mask else ", with another mask"
            detail = f"({split}) the same as {first.name} ({first_split}){masks}"
            (within if split == first_split else across).append((case.name, detail))
    advice = "Leave out one of each with exclude, or give both the same patient."
    said = []
    if across:
        names, details = zip(*across, strict=True)
        what = "images are the same as one of another split, so scores would be wrong"
        said.append(Finding("error", "duplicates_across_splits", what, names, details, advice))
    if within:
        names, details = zip(*within, strict=True)
        what = "images are the same as another of their split"
        said.append(Finding("warning", "duplicates", what, names, details, advice))
    return said

"""Findings on sizes, spacings, planes and places of cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from mlla_seg.checking.findings import Finding, Severity
from mlla_seg.data.card import Card
from mlla_seg.data.formats.georeference import overlapping
from mlla_seg.data.slices import View
from mlla_seg.data.store.case import StoredCase
from mlla_seg.data.store.notes import across

OUTLIER = 3
"""Factor from the median at which a spacing is an outlier."""
LARGE = 8
"""Factor from the crop at which a slice of a volume is large: an epoch sees one crop of it."""


def geometry(card: Card, by_split: Mapping[str, Sequence[StoredCase]], view: View) -> list[Finding]:
    """Return all findings on the geometry of cases.

    Args:
        card: Card of the data.
        by_split: The cases of each split.
        view: How the network sees them.
    """
    cases = [case for split in by_split.values() for case in split]
    findings = []
    if names := across(card, cases):
        what = f"volumes are not sliced along their coarsest axis (plane: {card.plane})"
        advice = "Use --data.plane acquired to do so."
        findings.append(Finding("warning", "plane", what, tuple(names), advice=advice))
    findings += _spacings(cases)
    findings += _sizes(cases, view)
    if card.splits.blocks is None:
        findings += _shared_ground(by_split)
    return findings


def _spacings(cases: Sequence[StoredCase]) -> list[Finding]:
    """Return a finding on spacings of volumes, or pixels of scenes, far from the median."""
    steps: dict[str, dict[str, tuple[float, ...]]] = {"mm": {}}
    for case in cases:
        if case.spacing_mm:
            steps["mm"][case.name] = case.spacing_mm
        elif case.ground:
            a, b, _, d, e, _ = case.ground.transform
            unit = _unit(case.ground.crs)
            steps.setdefault(unit, {})[case.name] = (float(np.hypot(b, e)), float(np.hypot(a, d)))
    findings = []
    for unit, known in steps.items():
        if len(known) < 3:
            continue
        median = np.median([*known.values()], axis=0).tolist()
        far = {
            name: own
            for name, own in known.items()
            if any(step > OUTLIER * middle or step * OUTLIER < middle for step, middle in zip(own, median, strict=True))
        }
        if far:
            details = tuple(f"{_product(own)} {unit}" for own in far.values())
            what = f"the spacing is more than {OUTLIER} times from the median, {_product(median)} {unit}"
            findings.append(Finding("warning", "spacing", what, tuple(far), details, "Check the headers."))
    return findings


def _unit(crs: str | None) -> str:
    from rasterio.crs import CRS

    if crs is None:
        return "units"
    known = CRS.from_wkt(crs)
    return "degrees" if known.is_geographic else known.linear_units


def _product(steps: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" if isinstance(step, float) else str(step) for step in steps)


def _sizes(cases: Sequence[StoredCase], view: View) -> list[Finding]:
    """Return findings on slices that are small or large beside the training samples."""
    if view.patch_size is None:
        return []
    crop, axes = view.patch_size, view.axes
    seen = {case.name: view.grid((case.shape[0], *case.shape[2:]), case.spacing_mm) for case in cases}
    divided = {name for name, grid in seen.items() if grid[0] > 1 or axes == 3}  # scenes are meant to be large
    sizes = {name: grid[-axes:] for name, grid in seen.items()}
    small = {
        name: size
        for name, size in sizes.items()
        if math.prod(size) * 2 < math.prod(crop) or any(n * 2 < wanted for n, wanted in zip(size, crop, strict=True))
    }
    large = {
        name: sizes[name] for name in sizes if name in divided and math.prod(sizes[name]) > LARGE * math.prod(crop)
    }
    shape, what = _product(crop), "slices" if axes == 2 else "volumes"
    findings = []
    for kind, found, words in (
        ("small", small, f"images are so small that most of a crop of {shape} is padding"),
        ("large", large, f"{what} have more than {LARGE} times the size of a crop of {shape}"),
    ):
        if found:
            details = tuple(_product(size) for size in found.values())
            advice = "Set another --data.crop, --data.resize or --data.spacing_mm." if kind == "small" else ""
            severity: Severity = "warning" if kind == "small" else "info"
            findings.append(Finding(severity, kind, words, tuple(found), details, advice))
    return findings


def _shared_ground(by_split: Mapping[str, Sequence[StoredCase]]) -> list[Finding]:
    """Return a finding on scenes that overlap one of another split."""
    found = [
        (other, f"({second}) {share:.0%} of it lies in {name} ({first})")
        for first, second in combinations(by_split, 2)
        for name, other, share in overlapping(by_split[first], by_split[second])
    ]
    if not found:
        return []
    names, details = zip(*found, strict=True)
    what = "scenes overlap one of another split on the ground, so scores are too optimistic"
    return [Finding("warning", "ground", what, names, details, "Crop the scenes, or put both in one split.")]

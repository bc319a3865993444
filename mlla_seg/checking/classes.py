"""Findings on the classes of each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlla_seg.checking.findings import Finding
from mlla_seg.data.card import Card
from mlla_seg.data.store.case import StoredCase


def frequencies(card: Card, by_split: Mapping[str, Sequence[StoredCase]]) -> dict[str, dict[str, float]]:
    """Return the fraction of the labelled pixels that each class has, for each split with cases."""
    shares = {}
    for split, cases in by_split.items():
        if cases:
            voxels = np.sum([case.voxels for case in cases], axis=0)
            shares[split] = dict(zip(card.class_names, (voxels / max(1, voxels.sum())).tolist(), strict=True))
    return shares


def absent_classes(shares: Mapping[str, Mapping[str, float]]) -> list[Finding]:
    """Return a finding for each split that lacks classes, except the training split: see ``check_classes``."""
    findings = []
    for split, by_class in shares.items():
        if split != "train" and (names := [name for name, share in by_class.items() if share == 0]):
            what = f"no mask of {split} contains {', '.join(names)}, so they cannot be scored there"
            findings.append(Finding("warning", f"absent_{split}", what))
    return findings

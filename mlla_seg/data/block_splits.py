"""Splits of single scenes by blocks, drawn from a seed for each scene."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlla_seg.data.blocks import Cell, Part
from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import SPLITS
from mlla_seg.data.cases import Case
from mlla_seg.data.formats.georeference import overlapping
from mlla_seg.data.pseudonyms import known_patients
from mlla_seg.data.splits import Splits, excluded_of, kept
from mlla_seg.data.store.case import StoredCase
from mlla_seg.errors import InputError
from mlla_seg.progress import note

SIGNS = {"train": "t", "val": "v", "test": "x"}
"""Letters of the splits in the map of a scene."""
MOST_DRAWN = 32
"""Rows and columns of a map above which it is not drawn."""


def block_splits(card: Card, cases: Sequence[Case], margin: int, fold: int | None, folds: int) -> Splits:
    """Divide each scene into blocks: one training case, and a case for each block of validation and test.

    Args:
        card: Card with ``blocks`` in its splits.
        cases: The scenes.
        margin: Pixels around blocks of validation and test that windows look at.
        fold: Fold to validate, of the blocks outside the test split.
        folds: Number of folds.

    Raises:
        InputError: The scenes lie in folders of splits, or there are too few blocks.
    """
    how = card.splits
    if placed := [case.name for case in cases if case.split is not None]:
        raise InputError(f"{card.name}: {placed[0]} lies in a folder that names its split, which excludes blocks.")
    splits = Splits(excluded=excluded_of(cases))
    for k, case in enumerate(kept(cases)):
        drawn = draw_blocks(card, case.name, fold, folds)
        if k == 0:
            _note_map(card, case.name, drawn, len(kept(cases)))
        for split in SPLITS:
            for cells in [drawn[split]] if split == "train" else [(cell,) for cell in drawn[split]]:
                part = Part(case.name, case.patient, how.grid, cells, drawn[split], how.gap_px, how.gap_m)
                if split == "train":
                    splits.train.append(replace(case, part=part))
                    continue
                name = name_of(case.name, cells[0])
                part = replace(part, margin=margin)
                getattr(splits, split).append(replace(case, name=name, patient=name, part=part))
    splits.test = [case.tested() for case in splits.test]
    return splits


def draw_blocks(card: Card, scene: str, fold: int | None, folds: int) -> dict[str, tuple[Cell, ...]]:
    """Return the blocks of each split of a scene, drawn from the seed of the card and the name of the scene."""
    how = card.splits
    rows, columns = how.grid
    cells = [(r, c) for r in range(rows) for c in range(columns)]
    random.Random(f"{how.seed or 0} {scene}").shuffle(cells)
    test, val = (max(1, round(float(part) * len(cells))) if part else 0 for part in (how.test, how.val))
    rest = cells[test:]
    if fold is not None:
        if not 0 <= fold < folds:
            raise InputError(f"--data.fold must be from 0 to {folds - 1} with --data.folds {folds}, got {fold}.")
        if not 1 < folds <= len(rest):
            raise InputError(f"{scene}: {len(rest)} blocks outside the test split cannot form {folds} folds.")
    held_out = rest[:val] if fold is None else rest[fold::folds]
    train = [cell for cell in rest if cell not in held_out]
    if not train:
        raise InputError(f"{card.name}: {how.blocks} blocks leave none to train on. Lower val and test.")
    drawn = {"train": train, "val": held_out, "test": cells[:test]}
    return {split: tuple(sorted(found)) for split, found in drawn.items()}


def name_of(scene: str, cell: Cell) -> str:
    """Return the name of the case of a block, with its row and column from 1."""
    return f"{scene}_r{cell[0] + 1}c{cell[1] + 1}"


def _note_map(card: Card, scene: str, drawn: Mapping[str, Sequence[Cell]], scenes: int) -> None:
    how = card.splits
    rows, columns = how.grid
    sign = {cell: SIGNS[split] for split, cells in drawn.items() for cell in cells}
    gap = f"{how.gap_px} pixels" if how.gap_px is not None else f"{how.gap_m:g} m"
    counts = ", ".join(f"{len(drawn[split])} {split} ({SIGNS[split]})" for split in SPLITS)
    lines = [f"note: {scene} is divided into {how.blocks} blocks, splits {gap} apart: {counts}"]
    if max(rows, columns) <= MOST_DRAWN:
        lines += ["    " + " ".join(sign[r, c] for c in range(columns)) for r in range(rows)]
    if scenes > 1:
        lines.append(f"  and {scenes - 1} more scenes likewise, each drawn by its name")
    for line in lines:
        note(line)


def traces(cases: Sequence[Case]) -> list[str]:
    """Return the names by which training cases are recognised later: patients, or blocks with their grid."""
    names = []
    for case in cases:
        names.append(case.patient)
        if case.part is not None:
            names += [_grid(case.part), *(name_of(case.part.scene, cell) for cell in case.part.cells)]
    return names


def seen_in_training(cases: Sequence[Case], saved: Mapping[str, Any]) -> list[str]:
    """Return the patients or blocks of some cases that a checkpoint was trained on, from what :func:`traces` named.

    Blocks of a scene count as seen if the scene was trained on as a whole or by another grid.
    """
    seen = set(known_patients([case.patient for case in cases], saved))
    parts = [case for case in cases if case.part is not None]
    whole = set(known_patients({case.part.patient for case in parts if case.part}, saved))
    grids = set(known_patients({_grid(case.part) for case in parts if case.part}, saved))
    seen |= {case.name for case in parts if case.part and case.part.patient in whole and _grid(case.part) not in grids}
    return sorted(seen)


def _grid(part: Part) -> str:
    return f"{part.scene}/{part.grid[0]}x{part.grid[1]}"


def note_overlapping_scenes(cases: Sequence[StoredCase]) -> None:
    """Note scenes that overlap on the ground, as each is divided by itself."""
    pairs = [pair for pair in overlapping(cases, cases) if pair[0] < pair[1]]
    if pairs:
        note(
            f"note: {len(pairs)} pairs of scenes overlap on the ground, such as {pairs[0][0]} and {pairs[0][1]}. Each "
            "is divided into blocks by itself, so scores are too optimistic there."
        )

"""Scores of subgroups of the cases, by what a table says about them: by scanner, sex, thirds of age."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlla_seg.evaluation import score_tables, tables
from mlla_seg.evaluation.case_scores import CaseScores
from mlla_seg.evaluation.spread import LEVEL, Spread

LEAST = 5
"""Cases of a subgroup below which it gets no scores: they would say more about the cases than about the group."""
MOST_GROUPS = 12
"""Most groups of a column; with more it is only carried along, as it probably names the cases."""
MOST_NUMBERS = 5
"""Most different numbers of a column; if there are more, they are cut into thirds."""
UNKNOWN = "(not given)"
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Subgroup:
    """Cases with the same value in a column, or with numbers in the same range."""

    column: str
    group: str
    cases: int
    patients: int
    spreads: dict[str, dict[str, Spread]]
    """Spread of each score by class, and of the mean over them; empty if there are too few cases."""


def subgroups(scores: CaseScores) -> list[Subgroup]:
    """Return the scores of all subgroups of the columns that form any."""
    patients = scores.patients
    found = []
    for column, groups in _columns(scores).items():
        if not _forms_groups(groups):
            continue
        for name, chosen in groups.items():
            spreads = scores.subset(chosen).spreads if len(chosen) >= LEAST else {}
            found.append(Subgroup(column, name, len(chosen), len({patients[i] for i in chosen}), spreads))
    return found


def left_out_columns(scores: CaseScores) -> list[str]:
    """Return the columns that form no subgroups: those with one value, or almost as many as there are cases."""
    return [column for column, groups in _columns(scores).items() if not _forms_groups(groups)]


def _columns(scores: CaseScores) -> dict[str, dict[str, list[int]]]:
    """Return the groups of each column."""
    columns = list(scores.facts[0]) if scores.facts else []
    return {column: groups_of([facts[column] for facts in scores.facts]) for column in columns}


def _forms_groups(groups: dict[str, list[int]]) -> bool:
    return 1 < len(groups) <= MOST_GROUPS and any(len(chosen) >= LEAST for chosen in groups.values())


def groups_of(cells: Sequence[str]) -> dict[str, list[int]]:
    """Return the indices of the cells of each group, in the order of the groups.

    A group has the same text. A column of more than a few different numbers is cut at its terciles instead. Empty cells
    are a group of their own.
    """
    given = [i for i, cell in enumerate(cells) if cell]
    empty = [i for i, cell in enumerate(cells) if not cell]
    if len({cells[i] for i in given}) > MOST_NUMBERS and all(NUMBER.fullmatch(cells[i]) for i in given):
        groups = _thirds(cells, given)
    else:
        groups = {}
        for i in sorted(given, key=lambda i: _order(cells[i])):
            groups.setdefault(cells[i], []).append(i)
    return groups | ({UNKNOWN: empty} if empty else {})


def _order(cell: str) -> tuple[float, str]:
    return (_number(cell) if NUMBER.fullmatch(cell) else np.inf, cell)


def _number(cell: str) -> float:
    return float(cell.replace(",", "."))


def _thirds(cells: Sequence[str], given: Sequence[int]) -> dict[str, list[int]]:
    """Return thirds of the numbers; equal numbers are in one group."""
    numbers = {i: _number(cells[i]) for i in given}
    low, high = (float(value) for value in np.percentile([*numbers.values()], (100 / 3, 200 / 3), method="lower"))
    parts = [
        [i for i in given if numbers[i] <= low],
        [i for i in given if low < numbers[i] <= high],
        [i for i in given if numbers[i] > high],
    ]
    return {_range([numbers[i] for i in part]): part for part in parts if part}


def _range(numbers: Sequence[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def text_of_spreads(scores: CaseScores, groups: Sequence[Subgroup]) -> str:
    """Return the tables for the terminal: the spread of the main scores, and that of the subgroups."""
    parts = []
    for score in score_tables.shown(scores):
        parts += ["", tables.format_table(*score_tables.spread_table(scores, score))]
    parts.append(score_tables.explanation(scores))
    if scores.facts and scores.facts[0]:
        for score in score_tables.shown(scores) if groups else ():
            parts += ["", tables.format_table(*subgroup_table(scores, groups, score))]
        parts.append(explanation(scores))
    return "\n".join(parts)


def subgroup_table(scores: CaseScores, groups: Sequence[Subgroup], score: str) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the mean of a score over the classes: a row per subgroup."""
    header = [scores.title(score), "group", "mean", f"{LEVEL:.0%} interval", "SD", "cases", "patients"]
    rows: list[list[Any]] = []
    for entry in groups:
        found = entry.spreads[score]["mean"] if entry.spreads else None
        values = [found.mean, score_tables.range_in_words(found.low, found.high), found.sd] if found else ["-"] * 3
        rows.append([entry.column, entry.group, *values, entry.cases, entry.patients])
    return header, rows


def subgroup_rows(groups: Sequence[Subgroup]) -> list[dict[str, Any]]:
    """Return rows for ``subgroups.csv``: one per subgroup, score and class."""
    return [
        {"column": entry.column, "group": entry.group, "patients": entry.patients, "score": score, "class": name}
        | asdict(spread)
        for entry in groups
        for score, classes in entry.spreads.items()
        for name, spread in classes.items()
    ]


def subgroup_summary(groups: Sequence[Subgroup]) -> dict[str, dict[str, Any]]:
    """Return the entry of ``summary.json``: by column and group the numbers of cases and patients, and all scores."""
    content: dict[str, dict[str, Any]] = {}
    for entry in groups:
        scores = {
            score: {name: asdict(spread) for name, spread in classes.items()}
            for score, classes in entry.spreads.items()
        }
        numbers = {"cases": entry.cases, "patients": entry.patients}
        content.setdefault(entry.column, {})[entry.group] = {**numbers, **scores}
    return content


def explanation(scores: CaseScores) -> str:
    """Return how the subgroups are formed."""
    text = (
        f"Subgroups by columns of the table; more than {MOST_NUMBERS} different numbers are cut into thirds. Groups of "
        f"fewer than {LEAST} cases get no scores."
    )
    if left_out := left_out_columns(scores):
        text += f" No groups by {', '.join(left_out)}: one value, over {MOST_GROUPS}, or too few cases of each."
    return text

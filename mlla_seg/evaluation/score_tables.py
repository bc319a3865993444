"""Scores with their spread, as a table for the terminal and the report, as ``scores.csv`` and as ``scores.tex``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlla_seg.atomic import renamed_when_done
from mlla_seg.evaluation.case_scores import CaseScores
from mlla_seg.evaluation.spread import LEVEL, Spread
from mlla_seg.evaluation.tables import format_cell, write_csv
from mlla_seg.visible import visible

SHOWN = ("dice", "hd95", "hd95_area")
"""Scores whose spread is shown; the files have all."""
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL["±"] = r"$\pm$"
SPECIAL |= {character: f"\\{character}" for character in "&%$#_{}"}
"""LaTeX of the characters that have a meaning there."""


def spread_table(scores: CaseScores, score: str) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the spread of a score: a row per foreground class, and that of their mean."""
    header = [scores.title(score), "mean", f"{LEVEL:.0%} interval", "SD", "median", "quartiles", "cases"]
    rows: list[list[Any]] = [
        [
            name,
            found.mean,
            range_in_words(found.low, found.high),
            found.sd,
            found.median,
            range_in_words(found.first_quartile, found.third_quartile),
            found.cases,
        ]
        for name, found in scores.spreads[score].items()
    ]
    return header, rows


def shown(scores: CaseScores) -> list[str]:
    """Return the names of the scores whose spread is shown."""
    return [score for score in SHOWN if score in scores.values]


def explanation(scores: CaseScores) -> str:
    """Return how the spread is measured, with the number of cases and patients."""
    patients = len(set(scores.patients))
    drawn = "them" if patients == len(scores.cases) else f"{patients} patients"
    return (
        f"SD, median and quartiles over {len(scores.cases)} cases; {LEVEL:.0%} interval of the mean by a bootstrap "
        f"over {drawn}: it does not cover another training of the network (see compare)."
    )


def write_scores_csv(path: Path, scores: CaseScores) -> None:
    """Write the spread of every score, a row per score and class."""
    rows = [
        {"score": score, "class": name, **asdict(found)}
        for score, classes in scores.spreads.items()
        for name, found in classes.items()
    ]
    write_csv(path, rows)


def write_scores_latex(path: Path, scores: CaseScores) -> None:
    """Write a LaTeX table (package ``booktabs``): means with their intervals, a row per class, a column per score."""
    found = scores.spreads
    titles = " & ".join(_escape(scores.title(score)) for score in found)
    names = list(next(iter(found.values())))
    lines = [f"{_escape(name)} & " + " & ".join(_latex(found[score][name]) for score in found) for name in names]
    lines[-1] = "\\midrule\n" + lines[-1]
    header = f"{scores.kind} & {titles} \\\\"
    table = ["\\toprule", header, "\\midrule", *(f"{line} \\\\" for line in lines), "\\bottomrule"]
    text = [f"% {explanation(scores)}", f"\\begin{{tabular}}{{l{'c' * len(found)}}}", *table, "\\end{tabular}"]
    with renamed_when_done(path) as temporary:
        temporary.write_text("\n".join(text) + "\n", encoding="utf-8")


def write_latex_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], comment: str) -> None:
    """Write any table as LaTeX (package ``booktabs``), with a comment above it."""
    lines = [" & ".join(_escape(format_cell(value)) for value in row) + " \\\\" for row in (header, *rows)]
    head = [
        f"% {visible(comment)}",
        f"\\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}",
        "\\toprule",
        lines[0],
        "\\midrule",
    ]
    with renamed_when_done(path) as temporary:
        temporary.write_text("\n".join([*head, *lines[1:], "\\bottomrule", "\\end{tabular}"]) + "\n", encoding="utf-8")


def range_in_words(low: float, high: float) -> str:
    """Return both limits, or a dash if they are unknown."""
    return "-" if math.isnan(low) else f"{format_cell(low)} to {format_cell(high)}"


def _latex(found: Spread) -> str:
    interval = "" if math.isnan(found.low) else f" ({format_cell(found.low)}--{format_cell(found.high)})"
    return f"{format_cell(found.mean)}{interval}"


def _escape(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in visible(text))

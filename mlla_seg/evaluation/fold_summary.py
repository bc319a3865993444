"""The command folds: combine the scores of all folds of a cross-validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from mlla_seg.errors import InputError, program
from mlla_seg.evaluation import tables
from mlla_seg.evaluation.case_scores import CaseScores
from mlla_seg.evaluation.score_tables import write_scores_csv, write_scores_latex
from mlla_seg.evaluation.subgroups import subgroup_rows, subgroups, text_of_spreads
from mlla_seg.evaluation.surface_distance import BY_AREA, MEASURES
from mlla_seg.progress import say
from mlla_seg.texts import read_json

SAME_IN_ALL = ("card", "folds", "unit", "nsd_tolerance", "background", "protocols", "test-time augmentation")
"""Keys on which the summaries of all folds must agree."""
LAST = "fn"
"""Last column of ``per_case.csv`` before those of the table of the cases."""
POOLED = ("dice", "iou", *MEASURES, *BY_AREA, "precision", "recall")


def folds(runs: str, output: str = "") -> None:
    """Combine the scores of all folds of a cross-validation, and those of subgroups of all their cases.

    Train each fold with `fit --data.fold K` and score it with `validate --data.fold K`. If a fold was scored more than
    once, the newest scores are used.

    Args:
        runs: Folder of the runs, such as runs/hippocampus.
        output: Folder for folds.csv, for per_case.csv with the cases of all folds, and for the spread of their scores;
            by default the runs folder.
    """
    found = newest_by_fold(Path(runs))
    rows = {fold: _read_rows(folder / "per_case.csv") for fold, (folder, _) in found.items()}
    _, first = next(iter(found.values()))
    _require_same_columns(found, rows)
    _require_each_case_once(found, rows)
    table = fold_table(rows, first["background"])
    scores = case_scores([row for part in rows.values() for row in part], first)
    groups = subgroups(scores)
    folder = Path(output or runs)
    tables.write_csv(folder / "folds.csv", table)
    tables.write_csv(folder / "per_case.csv", [{"fold": fold, **row} for fold in rows for row in rows[fold]])
    say(tables.format_table([*table[0]], [list(row.values()) for row in table]))
    cases = len(scores.cases)
    distances = f", distances in {first['unit']}" if first["unit"] else ""
    say(f"{cases} cases in {len(rows)} folds{distances}; the last columns are means over all cases.")
    say(text_of_spreads(scores, groups))
    write_scores_csv(folder / "scores.csv", scores)
    write_scores_latex(folder / "scores.tex", scores)
    written = {"Table": "folds.csv", "All cases": "per_case.csv", "Spread": "scores.csv", "LaTeX": "scores.tex"}
    if any(group.spreads for group in groups):
        tables.write_csv(folder / "subgroups.csv", subgroup_rows(groups))
        written["Subgroups"] = "subgroups.csv"
    say("\n" + "\n".join(f"{title + ':':<10} {folder / name}" for title, name in written.items()))


def newest_by_fold(runs: Path) -> dict[int, tuple[Path, dict[str, Any]]]:
    """Return the folder of the newest scores of each fold below ``runs``, with its summary.

    Raises:
        InputError: No fold was scored, folds are missing, or they were scored with different options.
    """
    found: dict[int, tuple[Path, dict[str, Any]]] = {}
    for path in sorted(runs.glob("**/summary.json"), key=lambda path: path.stat().st_mtime):
        content = read_json(path)
        if not isinstance(content, dict):
            raise InputError(f"{path}: holds no scores. Score the fold again.")
        if content.get("fold") is not None and content.get("split") == "val":
            found[content["fold"]] = (path.parent, content)
    how = f"score each with: {program()} validate --config ... --ckpt_path last --data.fold K"
    if not found:
        raise InputError(f"{runs.absolute()}: contains no scored folds; {how}")
    folder, first = next(iter(found.values()))
    start = 0 if first["folds"] not in found else 1  # a table may number folds from 1
    if missing := sorted(set(range(start, first["folds"] + start)) - set(found)):
        raise InputError(f"{runs}: folds {', '.join(map(str, missing))} of {first['folds']} are not scored; {how}")
    for other, content in found.values():
        for key in SAME_IN_ALL:
            if content.get(key) != first.get(key):
                raise InputError(
                    f"{other}: {key} is {content.get(key)}, but in {folder} it is {first.get(key)}. "
                    "Score all folds with the same options."
                )
    return dict(sorted(found.items()))


def fold_table(rows: Mapping[int, Sequence[Mapping[str, Any]]], background: str | None) -> list[dict[str, Any]]:
    """Return a row per foreground class and their mean: Dice per fold, its deviation, and scores over all cases."""
    every = [row for part in rows.values() for row in part]
    classes = [name for name in dict.fromkeys(row["class"] for row in every) if name != background]
    table = []
    for name in classes:
        by_fold = {fold: _mean(part, name, "dice") for fold, part in rows.items()}
        known = [value for value in by_fold.values() if not math.isnan(value)]
        line: dict[str, Any] = {"class": name, **{f"fold {fold}": value for fold, value in by_fold.items()}}
        line["sd of folds"] = stdev(known) if len(known) > 1 else math.nan
        table.append(line | {score: _mean(every, name, score) for score in POOLED if score in every[0]})
    mean = {key: _nanmean([line[key] for line in table]) for key in table[0] if key not in ("class", "sd of folds")}
    of_folds = [mean[f"fold {fold}"] for fold in rows]
    order = dict.fromkeys(table[0])
    return [*table, order | mean | {"class": "mean", "sd of folds": stdev(of_folds) if len(of_folds) > 1 else math.nan}]


def case_scores(rows: Sequence[Mapping[str, str]], summary: Mapping[str, Any]) -> CaseScores:
    """Return the scores of the cases of all folds together.

    Args:
        rows: Rows of ``per_case.csv`` of all folds, with the same columns.
        summary: ``summary.json`` of one of them.
    """
    kept = [row for row in rows if row["class"] != summary["background"]]
    names = list(dict.fromkeys(row["class"] for row in kept))
    cases = {row["case"]: row for row in kept}
    columns = list(kept[0])
    facts = columns[columns.index(LAST) + 1 :] if LAST in columns else []
    shape = len(cases), len(names)
    return CaseScores(
        list(cases),
        [row.get("patient") or case for case, row in cases.items()],
        names,
        {
            score: np.array([float(row[score] or "nan") for row in kept]).reshape(shape)
            for score in POOLED
            if score in columns
        },
        summary.get("unit") or "voxel",
        summary.get("nsd_tolerance") or 0.0,
        "region" if summary.get("regions") else "class",
        [{fact: row[fact] for fact in facts} for row in cases.values()] if facts else (),
    )


def _require_same_columns(
    found: Mapping[int, tuple[Path, Any]], rows: Mapping[int, Sequence[Mapping[str, Any]]]
) -> None:
    first = next(iter(rows))
    for fold, part in rows.items():
        if different := sorted(set(part[0]) ^ set(rows[first][0])):
            raise InputError(
                f"{found[fold][0]}: per_case.csv differs from that in {found[first][0]} by {len(different)} columns, "
                f"such as {different[0]}. Score all folds with the same options and the same table of patients."
            )


def _require_each_case_once(found: Mapping[int, Any], rows: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
    seen: dict[str, int] = {}
    for fold, part in rows.items():
        for case in {row["case"] for row in part}:
            if case in seen:
                raise InputError(
                    f"{found[fold][0]}: {case} is also in fold {seen[case]}. Train and score all folds with the same "
                    "--data.folds and the same data."
                )
            seen[case] = fold


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path} is missing, although its summary.json exists. Score the fold again.")
    return tables.read_csv(path)


def _mean(rows: Sequence[Mapping[str, Any]], name: str, score: str) -> float:
    return _nanmean([float(row[score] or "nan") for row in rows if row["class"] == name])


def _nanmean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan

"""Gathers the runs of a study that are done: a CSV, a table, conclusions and an HTML page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, TypeAlias

import numpy as np

from mlla_seg.evaluation import html, plots, tables
from mlla_seg.study.agreement import HEADER, agreement
from mlla_seg.study.conclusions import Comparison, compared, explanation, sentence, table
from mlla_seg.study.plan import Plan, Run, Variant
from mlla_seg.study.scores import LOWER_IS_BETTER, METRICS, Scored, read_scored, require_alike, usual_metric
from mlla_seg.texts import read_json

Section: TypeAlias = tuple[str, str, bytes | str]
"""A further section of the page: title, text, and a picture as bytes of a PNG or text of an SVG."""

LEGEND = (
    "95 % intervals over patients and seeds. Filled: shown after Holm's correction. Grey: a single seed.\n"
    "Dots: single runs. In brackets: number of seeds."
)

AGAINST = (
    "Published figures and ours as differences to the published baseline, {}. They are of other data, networks and "
    "budgets, so that only their signs are compared, and only where a difference is shown here."
)


@dataclass(frozen=True)
class Results:
    """What is known of a study so far.

    Args:
        metric: Name of the score.
        runs: A row per run that is done: variant, seed, score, steps, seconds, parameters_m.
        summary: Header and rows of the table: a row per variant with a run.
        comparisons: Each variant against the first one, if that has a run.
        agreed: The published baseline, and rows of the comparison with published figures, if there are any.
    """

    metric: str
    runs: list[dict[str, Any]]
    summary: tuple[list[str], list[list[Any]]]
    comparisons: list[Comparison]
    agreed: tuple[str, list[list[str]]] | None = None


def gather(plan: Plan) -> Results | None:
    """Return the results of all runs that are done, or None without any.

    Raises:
        InputError: Runs were scored on other cases or in another way.
    """
    done = [run for run in plan.runs() if run.done]
    if not done:
        return None
    metric = plan.metric or usual_metric(done[0].scored)
    scored = {str(run): read_scored(run.scored, metric) for run in done}
    require_alike(list(scored.values()), metric)
    rows = [row for variant in plan.variants for row in _rows(variant, done, scored, metric)]
    found = [variant for variant in plan.variants if any(run.variant is variant for run in done)]
    comparisons: list[Comparison] = []
    designs = {v.name: [scored[str(run)] for run in done if run.variant is v] for v in found}
    if found[0] is plan.variants[0] and len(found) > 1:
        comparisons = compared(designs, metric, {variant.name: variant.title for variant in found})
    papers = any(variant.paper is not None for variant in found)
    header = ["design", "runs", METRICS[metric], "deviation", "steps", "M parameters", *(["paper"] if papers else [])]
    lines = [_line(variant, [row for row in rows if row["variant"] == variant.name], papers) for variant in found]
    return Results(metric, rows, (header, lines), comparisons, agreement(plan, designs, metric))


def _rows(variant: Variant, done: Sequence[Run], scored: dict[str, Scored], metric: str) -> list[dict[str, Any]]:
    rows = []
    for run in done:
        if run.variant is variant:
            facts, one = read_json(run.facts), scored[str(run)]
            score = float(one.score(metric, np.ones((1, len(one.cases))))[0])
            own = {key: facts[key] for key in ("steps", "seconds", "parameters_m")}
            rows.append({"variant": variant.name, "seed": run.seed, "score": score, **own})
    return rows


def _line(variant: Variant, rows: Sequence[dict[str, Any]], papers: bool) -> list[Any]:
    scores = [row["score"] for row in rows]
    spread = stdev(scores) if len(scores) > 1 else math.nan
    steps = round(median(row["steps"] for row in rows))
    size = f"{rows[0]['parameters_m']:.2f}"
    paper = [math.nan if variant.paper is None else f"{variant.paper:g}"] if papers else []
    return [variant.title, len(rows), fmean(scores), spread, steps, size, *paper]


def missing(plan: Plan) -> str:
    """Return how many runs are done, and the names of the others."""
    runs = plan.runs()
    left = [str(run) for run in runs if not run.done]
    return f"{len(runs) - len(left)} of {len(runs)} runs are done" + (f"; missing: {', '.join(left)}." if left else ".")


def budget(plan: Plan) -> str:
    """Return what all runs had in common."""
    each = f"{plan.steps} steps" if plan.steps else f"{plan.minutes:g} minutes"
    return f"{Path(plan.base).stem}, {each} each, scored by {plan.split}"


def report(plan: Plan, results: Results) -> str:
    """Return the tables and conclusions for the terminal."""
    parts = [budget(plan), tables.format_table(*results.summary)]
    if results.comparisons:
        parts += ["", tables.format_table(*table(results.comparisons)), explanation(results.comparisons), ""]
        parts += [sentence(one) for one in results.comparisons]
    if results.agreed:
        parts += ["", AGAINST.format(results.agreed[0]), tables.format_table(HEADER, results.agreed[1])]
    return "\n".join(parts)


def forest(comparisons: Sequence[Comparison], to: Any) -> None:
    """Draw the comparisons into a PNG: a path or an open file."""
    first = comparisons[0]
    rows = [
        {
            "name": f"{one.name} ({one.seeds[0]})",
            "value": one.difference.value,
            "low": one.difference.low,
            "high": one.difference.high,
            "runs": one.spread,
            "shown": one.shown,
            "sampled": one.sampled,
        }
        for one in comparisons
    ]
    better = "left" if first.metric in LOWER_IS_BETTER else "right"
    label = f"{METRICS[first.metric]} minus that of {first.reference} ({first.seeds[1]}); better to the {better}"
    plots.plot_forest(rows, label, LEGEND, to)


def write_study(plan: Plan, results: Results, sections: Sequence[Section] = ()) -> list[Path]:
    """Write ``study.csv`` and ``study.html`` into the output folder and return them.

    Args:
        plan: The study.
        results: Its results.
        sections: Further sections of the page, below the conclusions.
    """
    files = [plan.output / "study.csv", plan.output / "study.html"]
    tables.write_csv(files[0], results.runs)
    parts = [
        html.note(f"{budget(plan)}. {missing(plan)}"),
        html.heading(f"{METRICS[results.metric]} over seeds"),
        html.table(*results.summary),
        html.note(
            "Mean and standard deviation over the seeds, median of the steps."
            + (" Paper: the figure published for this design, on other data." if "paper" in results.summary[0] else "")
        ),
    ]
    if results.comparisons:
        picture = io.BytesIO()
        forest(results.comparisons, picture)
        parts += [
            html.heading(f"Differences to {results.comparisons[0].reference}"),
            html.figure(picture.getvalue(), " ".join(LEGEND.split())),
            html.table(*table(results.comparisons)),
            html.note(explanation(results.comparisons)),
            html.heading("What follows"),
            *(html.paragraph(sentence(one)) for one in results.comparisons),
        ]
    if results.agreed:
        parts += [html.heading("Against the paper"), html.paragraph(AGAINST.format(results.agreed[0]))]
        parts.append(html.table(HEADER, results.agreed[1]))
    for title, text, image in sections:
        parts += [html.heading(title), html.paragraph(text), html.figure(image, title)]
    header = list(results.runs[0])
    rows = html.table(header, [list(row.values()) for row in results.runs])
    parts += [html.heading("Details"), html.folded("Scores of all runs", rows)]
    html.write_page(files[1], f"Study of {len(plan.variants)} designs on {Path(plan.base).stem}", parts)
    return files

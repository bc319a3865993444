"""Results of ``validate`` and ``test``: scores per case and over all, a page and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mlla_seg.data.dataset import CaseDataset
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.bands import shown_channels
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.resampling import fill_gaps
from mlla_seg.evaluation import html, plots, tables
from mlla_seg.evaluation.calibration_results import (
    LEAST,
    calibration_in_words,
    calibration_summary,
    calibration_table,
    plot_reliability,
)
from mlla_seg.evaluation.case_scores import CaseScores
from mlla_seg.evaluation.score_tables import explanation, spread_table, write_scores_csv, write_scores_latex
from mlla_seg.evaluation.score_tables import shown as shown_scores
from mlla_seg.evaluation.scores import PROTOCOLS, Evaluation
from mlla_seg.evaluation.subgroups import (
    Subgroup,
    subgroup_rows,
    subgroup_summary,
    subgroup_table,
    subgroups,
    text_of_spreads,
)
from mlla_seg.evaluation.subgroups import explanation as explanation_of_groups

RESULTS = ("per_case.csv", "summary.json", "scores.csv", "scores.tex", "report.html", "overlay.png")
"""Files of a scored split."""
BY_GROUP = "subgroups.csv"
"""A further file, if a table says more about the cases than their split."""
RELIABILITY = "reliability.png"
"""A further file, if calibration was measured."""

Spacing = Sequence[float] | None

DISTANCES = {
    "mm": "Distances in millimetres, from the spacing of each image.",
    "voxel": "Distances in voxels: the spacing of some images of the split is unknown.",
}

BY_AREA = (
    "Scores by area weigh pieces of surface by their area (in single images of contour by its length), as DeepMind's "
    "surface-distance; the other distances count surface voxels."
)

SHOWN = 1500
"""Side in pixels up to which images are shown at full resolution; larger ones are subsampled."""

POOLED = {"f1": "mean F1", "accuracy": "overall accuracy", "kappa": "kappa"}


@dataclass(frozen=True)
class Scored:
    """A scored split, with everything needed to draw its cases."""

    evaluation: Evaluation
    spec: DataSpec
    cases: CaseDataset
    predict_case: Callable[[Tensor, Spacing], Tensor]
    """Maps a case ``(S, C, H, W)`` and its spacing to labels ``(S, H, W)``."""
    predict_slice: Callable[[Tensor, int, Spacing], Tensor]
    """Maps a case, the index of a slice and the spacing to labels ``(H, W)``."""


def score_table(evaluation: Evaluation) -> str:
    """Return the tables for the terminal, with the unit of distances and pooled scores."""
    parts = [tables.format_table(*evaluation.table())]
    if evaluation.surfaces is not None:
        parts.append(_about_distances(evaluation))
    parts.append(text_of_spreads(evaluation.by_case, subgroups(evaluation.by_case)))
    if evaluation.boundaries is not None:
        parts += ["", tables.format_table(*evaluation.pooled_table())]
    parts.append(_pooled_line(evaluation))
    if evaluation.calibration is not None:
        parts += ["", tables.format_table(*calibration_table(evaluation)), calibration_in_words(evaluation)]
    if evaluation.published is not None:
        parts += ["", tables.format_table(*evaluation.comparison()), f"transunet: {PROTOCOLS['transunet']}"]
    return "\n".join(parts)


def summary(evaluation: Evaluation, split: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``summary.json``: means such as ``test/dice``, case counts, pooled scores and protocols."""
    measured = evaluation.surfaces is not None
    return {
        **{f"{split}/{name}": value for name, value in evaluation.means().items()},
        "spread": {
            score: {name: asdict(found) for name, found in classes.items()}
            for score, classes in evaluation.by_case.spreads.items()
        },
        **({"subgroups": subgroup_summary(groups)} if (groups := subgroups(evaluation.by_case)) else {}),
        "cases": len(evaluation.cases),
        "cases_by_class": evaluation.numbers_of_cases(),
        "pooled": evaluation.pooled(),
        "confusion": _confusion(evaluation),
        **({"calibration": calibration_summary(evaluation)} if evaluation.calibration is not None else {}),
        **({"regions": _classes_of_regions(evaluation)} if evaluation.regions else {}),
        "unit": evaluation.unit if measured else None,
        "nsd_tolerance": evaluation.tolerance if measured else None,
        "protocols": {name: PROTOCOLS[name] for name in _protocols(evaluation)},
        **about,
    }


def write_results(folder: Path, scored: Scored, split: str, about: Mapping[str, Any], config: str) -> list[Path]:
    """Write all results into the run's folder and return the files.

    Args:
        folder: Output folder.
        scored: Scores, and functions that predict a case again.
        split: Name of the split.
        about: Further entries of the summary: card, checkpoint, fold, version.
        config: The configuration of the run as YAML.
    """
    evaluation, cases = scored.evaluation, scored.cases
    files = [folder / name for name in RESULTS]
    tables.write_csv(files[0], evaluation.rows())
    tables.write_json(files[1], summary(evaluation, split, about))
    write_scores_csv(files[2], evaluation.by_case)
    write_scores_latex(files[3], evaluation.by_case)
    groups = subgroups(evaluation.by_case)
    if any(entry.spreads for entry in groups):
        files.append(folder / BY_GROUP)
        tables.write_csv(files[-1], subgroup_rows(groups))
    drawn = scored.spec.writes or evaluation.foreground
    colours = [scored.spec.classes[k].colour for k in drawn]
    calibration = []
    if evaluation.calibration is not None:
        files.append(folder / RELIABILITY)
        plot_reliability(evaluation, colours, files[-1])
        calibration = _calibration(evaluation, files[-1].read_bytes())
    shown = chosen_cases(evaluation)
    pictures = []
    index = {case.name: i for i, case in enumerate(cases.cases)}
    for title, name in shown.items():
        draw = overlay(scored, cases[index[name]])
        dice = float(evaluation.case_means()[evaluation.cases.index(name)])
        caption = f"{title}: {name}, mean Dice {tables.format_cell(dice)}"
        if title == ("median" if "median" in shown else "worst"):
            draw(files[5])
            pictures.append(html.figure(files[5].read_bytes(), caption))
        else:
            pictures.append(html.picture(draw, caption))
    html.write_page(
        files[4],
        f"{about['title']}: {len(evaluation.cases)} cases of split {split}",
        [
            html.table(["", ""], [[key, str(value)] for key, value in about.items() if key != "excluded"]),
            *_excluded(about.get("excluded", {})),
            *_tables(evaluation),
            *_by_group(evaluation.by_case, groups),
            html.heading("Scores per case, by class"),
            *_boxes(evaluation, colours),
            *calibration,
            html.heading("Best, median and worst case by mean Dice"),
            *pictures,
            html.heading("Details"),
            html.folded("Scores per case and class", _rows(evaluation)),
            html.folded("Configuration", html.code(config)),
        ],
    )
    return files


def chosen_cases(evaluation: Evaluation) -> dict[str, str]:
    """Return the best, median and worst case by mean Dice, without repeats; cases without foreground are left out."""
    means = evaluation.case_means()
    order = [i for i in means.argsort(descending=True, stable=True).tolist() if not means[i].isnan()]
    order = order or list(range(len(evaluation.cases)))
    best, median, worst = order[0], order[len(order) // 2], order[-1]
    if len(order) == 1:
        return {"median": evaluation.cases[best]}
    chosen = {"best": best, "median": median, "worst": worst} if len(order) > 2 else {"best": best, "worst": worst}
    return {title: evaluation.cases[i] for title, i in chosen.items()}


def overlay(scored: Scored, case: Mapping[str, Any]) -> Any:
    """Return a function that draws image, truth and prediction of a case at its richest slice into a file."""
    mask = case["mask"].numpy()
    background, spacing = scored.spec.background, case["spacing_mm"]
    if (mask[mask != IGNORE_INDEX] == (background or 0)).all():  # empty truth: show hallucinations
        labels = scored.predict_case(case["image"], spacing).numpy()
        position = richest_slice(labels, background)
        prediction = labels[position]
    else:
        position = richest_slice(mask, background)
        prediction = scored.predict_slice(case["image"], position, spacing).numpy()
    step = max(1, max(mask.shape[1:]) // SHOWN)
    return partial(
        _draw,
        fill_gaps(case["image"][position, :, ::step, ::step].float()).numpy(),
        {"truth": mask[position, ::step, ::step], "prediction": prediction[::step, ::step]},
        scored.spec,
        case["name"] if len(mask) == 1 else f"{case['name']}, slice {position}",
        spacing[1] / spacing[2] if spacing else 1.0,
    )


def _draw(image: Array, masks: Mapping[str, Array], spec: DataSpec, title: str, aspect: float, to: Any) -> None:
    window = spec.normalisation.windows[0] if len(image) < 3 else None  # that of the channel drawn in grey
    shown = image[shown_channels(spec.channels)]
    plots.plot_overlay(shown, masks, spec.classes, to, title, window, aspect, spec.background)


def richest_slice(mask: Array, background: int | None) -> int:
    """Return the slice with the most classes; ties are resolved by the number of labelled pixels."""
    shown = np.where(mask == IGNORE_INDEX, background or 0, mask)
    pixels = (shown != (background or 0)).sum(axis=(1, 2))
    classes = np.array([len(np.unique(piece)) for piece in shown])
    return int(np.lexsort((pixels, classes))[-1])


def _about_distances(evaluation: Evaluation) -> str:
    return DISTANCES[evaluation.unit] + ("" if evaluation.surface_areas is None else f" {BY_AREA}")


def _protocols(evaluation: Evaluation) -> list[str]:
    return ["native", *(["transunet"] if evaluation.published is not None else [])]


def _tables(evaluation: Evaluation) -> list[str]:
    parts = [
        html.heading("Scores: means over cases"),
        html.table(*evaluation.table(), last=True),
        html.note(
            PROTOCOLS["native"]
            if evaluation.surfaces is None
            else f"{_about_distances(evaluation)} {PROTOCOLS['native']}"
        ),
    ]
    if evaluation.regions:
        held = [f"{name} = {' + '.join(names)}" for name, names in _classes_of_regions(evaluation).items()]
        parts.append(html.note(f"Regions of the masks as written, which overlap: {'; '.join(held)}."))
    parts.append(html.heading("Spread over cases and patients"))
    by_case = evaluation.by_case
    parts += [html.table(*spread_table(by_case, score), last=True) for score in shown_scores(by_case)]
    parts.append(html.note(f"{explanation(by_case)} scores.csv has the spread of all scores, scores.tex a table."))
    parts += [
        html.heading("Pooled scores: all voxels of the split together"),
        html.table(*evaluation.pooled_table(), last=True),
        html.note(_pooled_line(evaluation)),
        html.picture(
            partial(plots.plot_confusion, evaluation.confusion.sum(dim=0).numpy(), evaluation.labels),
            "Confusion matrix in percent of each true class (rows: truth, columns: prediction)",
        ),
    ]
    if evaluation.published is not None:
        parts += [
            html.heading("Native and TransUNet protocols compared"),
            html.table(*evaluation.comparison(), last=True),
            html.note(PROTOCOLS["transunet"]),
        ]
    return parts


def _by_group(scores: CaseScores, groups: Sequence[Subgroup]) -> list[str]:
    if not groups:
        return []
    shown = [html.table(*subgroup_table(scores, groups, score)) for score in shown_scores(scores)]
    note = f"{explanation_of_groups(scores)} {BY_GROUP} has all scores by class."
    return [html.heading("Scores of subgroups: means over classes"), *shown, html.note(note)]


def _calibration(evaluation: Evaluation, picture: bytes) -> list[str]:
    caption = (
        f"Fraction of pixels that are right over their probability, for bins of {LEAST} pixels or more; below the "
        "diagonal the network is too certain"
    )
    return [
        html.heading("Calibration"),
        html.table(*calibration_table(evaluation)),
        html.note(calibration_in_words(evaluation)),
        html.figure(picture, caption),
    ]


def _excluded(reasons: Mapping[str, str]) -> list[str]:
    if not reasons:
        return []
    return [html.heading(f"Excluded cases: {len(reasons)}"), html.table(["case", "reason"], [*reasons.items()])]


def _pooled_line(evaluation: Evaluation) -> str:
    pooled = evaluation.pooled()
    left_out = evaluation.classes[evaluation.background] if evaluation.background is not None else None
    means = f"mean IoU {pooled['iou']:.4f}"
    if left_out:
        means += f" without {left_out} ({pooled['iou_with_all']:.4f} with it)"
    numbers = ", ".join(f"{title} {pooled[name]:.4f}" for name, title in POOLED.items())
    return f"All voxels together: {means}, {numbers}."


def _confusion(evaluation: Evaluation) -> dict[str, dict[str, int]]:
    """Return voxel counts by true class, then by predicted class."""
    rows = evaluation.confusion.sum(dim=0).tolist()
    names = evaluation.labels
    return {name: dict(zip(names, row, strict=True)) for name, row in zip(names, rows, strict=True)}


def _classes_of_regions(evaluation: Evaluation) -> dict[str, list[str]]:
    """Return the names of the classes of each region."""
    held = [[evaluation.labels[k] for k in region] for region in evaluation.regions]
    return dict(zip(evaluation.classes, held, strict=True))


def _boxes(evaluation: Evaluation, colours: Sequence[Sequence[int]]) -> list[str]:
    scores, parts = evaluation.scores(), []
    for name, label in (("dice", "Dice"), ("hd95", f"HD95 in {evaluation.unit}")):
        if name not in scores:
            continue
        columns = {evaluation.classes[k]: scores[name][:, k].tolist() for k in evaluation.foreground}
        caption = f"{label}: a dot per case, outliers named; boxes span the quartiles; number of cases in brackets"
        parts.append(html.picture(partial(plots.plot_boxes, columns, evaluation.cases, colours, label), caption))
    return parts


def _rows(evaluation: Evaluation) -> str:
    rows = [row for row in evaluation.rows() if row["class"] in {evaluation.classes[k] for k in evaluation.foreground}]
    return html.table(list(rows[0]), [list(row.values()) for row in rows])

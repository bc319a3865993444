"""Calibration of a split as a table, as an entry of ``summary.json`` and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mlla_seg.evaluation.calibration import BINS, CHOSEN, EVERYWHERE, calibration_error, reliability
from mlla_seg.evaluation.plots import new_figure, plain, save_figure
from mlla_seg.evaluation.scores import Evaluation

LEAST = 100
"""Pixels of a bin below which it is not drawn, as its fraction says little."""
MOST_NAMED = 20
"""Classes above which the legend of the picture is left out."""


def counts_by_class(evaluation: Evaluation) -> Tensor:
    """Return the counts of all cases together, ``(K, 2, BINS, 3)``."""
    assert evaluation.calibration is not None
    return evaluation.calibration.sum(dim=0)


def top_label_counts(evaluation: Evaluation) -> Tensor | None:
    """Return the counts of the top label, ``(2, BINS, 3)``: of all pixels, and of those predicted as foreground.

    Regions overlap, so they have no top label.
    """
    if evaluation.regions:
        return None
    counts, foreground = counts_by_class(evaluation), evaluation.foreground
    both: Tensor = counts.new_empty(2, *counts.shape[2:])
    both[0], both[1] = counts[:, CHOSEN].sum(dim=0), counts[foreground, CHOSEN].sum(dim=0)
    return both


def calibration_table(evaluation: Evaluation) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows: a row per foreground class, their mean, and the top label."""
    counts = counts_by_class(evaluation)[evaluation.foreground]
    errors = calibration_error(counts)
    names = [evaluation.classes[k] for k in evaluation.foreground]
    rows = [
        [name, *map(float, error), *_means(own[CHOSEN])] for name, error, own in zip(names, errors, counts, strict=True)
    ]
    rows.append(["mean", *map(float, errors.nanmean(dim=0)), "", ""])
    if (top := top_label_counts(evaluation)) is not None:
        rows.append(["top label", *map(float, calibration_error(top)), *_means(top[1])])
    return [evaluation.kind, "ECE of all pixels", "ECE where predicted", "mean probability", "correct"], rows


def calibration_in_words(evaluation: Evaluation) -> str:
    """Return what the table shows."""
    chosen = (
        "those with a probability above 0.5. Regions overlap, so they have no top label"
        if evaluation.regions
        else "those that the network gives the class, in the last row any foreground class"
    )
    return (
        f"Calibration of the network's probabilities: expected calibration error (ECE) over {BINS} bins, of a class "
        f"against the rest over all labelled pixels, and over {chosen}; mean probability and fraction correct of the "
        "latter."
    )


def calibration_summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return the entry of ``summary.json``: errors by class and of the top label, and the bins of all classes."""
    counts = counts_by_class(evaluation)
    content: dict[str, Any] = {
        "bins": BINS,
        "classes": {name: _entry(own) for name, own in zip(evaluation.classes, counts, strict=True)},
        "mean": dict(zip(("all", "predicted"), map(float, _mean_error(evaluation)), strict=True)),
    }
    if (top := top_label_counts(evaluation)) is not None:
        all_pixels, foreground = map(float, calibration_error(top))
        content["top_label"] = {"all": all_pixels, "predicted_foreground": foreground}
    return content


def plot_reliability(evaluation: Evaluation, colours: Sequence[Sequence[int]], to: Any) -> None:
    """Draw the fraction of true pixels over their probability, and the number of pixels of each bin below.

    Args:
        evaluation: The scored split.
        colours: ``[red, green, blue]`` of each foreground class, 0..255.
        to: A path or an open file for the PNG.
    """
    counts = counts_by_class(evaluation)[evaluation.foreground, EVERYWHERE]
    names = [evaluation.classes[k] for k in evaluation.foreground]
    shades: list[Any] = [np.array(colour) / 255 for colour in colours]
    panels: list[tuple[str, Tensor, list[str], list[Any]]] = [
        (f"each {evaluation.kind} against the rest", counts, names, shades)
    ]
    if (top := top_label_counts(evaluation)) is not None:
        labels = ["all pixels", "predicted as foreground"]
        kept = 1 if evaluation.background is None else 2
        panels.append(("top label", top[:kept], labels[:kept], ["black", "tab:red"][:kept]))
    figure, axes = new_figure(2, len(panels), (4.2 * len(panels), 5.6), heights=(3, 1))
    for (title, found, labels, shown), above, below in zip(panels, axes[0], axes[1], strict=True):
        above.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
        for own, label, colour in zip(found, labels, shown, strict=True):
            probability, fraction = reliability(own)
            drawn = own[:, 0] >= LEAST
            above.plot(probability[drawn], fraction[drawn], marker=".", color=colour, label=plain(label))
            below.stairs(own[:, 0].clip(min=1).numpy(), np.linspace(0, 1, BINS + 1), color=colour, baseline=1)
        above.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=title, ylabel="fraction that is right")
        below.set(
            xlim=(0, 1),
            yscale="log",
            ylim=(1, 3 * max(1, int(found[..., 0].max()))),
            xlabel="probability",
            ylabel="pixels",
        )
        above.grid(alpha=0.3)
        if len(labels) <= MOST_NAMED:
            above.legend(fontsize=7, loc="upper left")
    save_figure(figure, to)


def _means(counts: Tensor) -> list[float]:
    """Return mean probability and fraction of true pixels of counts ``(BINS, 3)`` together."""
    probability, fraction = reliability(counts.sum(dim=0))
    return [float(probability), float(fraction)]


def _mean_error(evaluation: Evaluation) -> Tensor:
    return calibration_error(counts_by_class(evaluation)[evaluation.foreground]).nanmean(dim=0)


def _entry(counts: Tensor) -> dict[str, Any]:
    """Return both errors of a class, and the pixels, mean probability and true fraction of each bin of all pixels."""
    everywhere, chosen = map(float, calibration_error(counts))
    probability, fraction = (values.tolist() for values in reliability(counts[EVERYWHERE]))
    pixels = counts[EVERYWHERE, :, 0].tolist()
    bins = {"pixels": pixels, "probability": probability, "fraction": fraction}
    return {"all": everywhere, "predicted": chosen, "reliability": bins}

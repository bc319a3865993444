"""Pictures of a study: cost, receptive fields, attention, token norms and forget gates of its variants."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlla_seg.evaluation.plots import new_figure, plain, save_figure
from mlla_seg.explain.receptive_field import reach
from mlla_seg.study.results import Section
from mlla_seg.study.subjects import EXAMPLES, Subject

NORMS = ("linear_attention", "linear", "linear-normalisation")
"""Mixers whose token norms are compared: MLLA's, the baseline's, and the baseline's without normaliser."""


def sections(subjects: Sequence[Subject], scores: dict[str, list[float]], title: str) -> list[Section]:
    """Return all pictures that the variants allow, with their texts.

    Args:
        subjects: Trained networks.
        scores: Scores of each variant's seeds, by its name.
        title: Title of the score.
    """
    found: list[Section] = [
        (
            "Accuracy and cost",
            "Mean score over seeds, with the range, against the cost of inference on one training patch. Patches per "
            "second were measured in turn on this machine.",
            _png(lambda file: draw_costs(subjects, scores, title, file)),
        ),
        (
            "Effective receptive fields",
            "Absolute gradient of the chosen pixel's largest logit with respect to the image (arXiv 1701.04128), mean "
            f"over up to {EXAMPLES} images, logarithmic; in the titles, the radii that hold half and 95 % of it.",
            _png(lambda file: draw_fields(subjects, file)),
        ),
    ]
    if any(subject.attention is not None for subject in subjects):
        text = (
            "Weights of all pixels for the marked one in the encoder's last block of stride 4, mean over heads; blue "
            "is negative. An even colour means that all pixels weigh the same."
        )
        found.append(("Attention of a pixel", text, _png(lambda file: draw_attention(subjects, file))))
    normed = [subject for subject in subjects if subject.of_blocks and subject.mixer in NORMS]
    if normed:
        text = (
            "Standard deviation over tokens of the norm of the mixer's output, relative to its mean, by depth. The "
            "paper reports that without the normaliser token norms differ much more, most of all in the last layers."
        )
        found.append(("Token norms", text, _png(lambda file: draw_depth(normed, "spread", "spread of norms", file))))
    gated = [subject for subject in subjects if subject.gates]
    if gated:
        text = (
            "Mean forget gate by depth; 1 forgets nothing. The paper reports about 0.2 in shallow layers, which then "
            "see little more than the latest tokens, and 0.6 to 0.8 in deep ones, after training on ImageNet."
        )
        found.append(("Forget gates", text, _png(lambda file: draw_depth(gated, "gates", "mean forget gate", file))))
    return found


def draw_costs(subjects: Sequence[Subject], scores: dict[str, list[float]], title: str, to: Any) -> None:
    """Draw scores against each cost, a numbered point per variant."""
    kinds = list(subjects[0].costs)
    figure, axes = new_figure(1, len(kinds), (3.6 * len(kinds) + 3, 0.16 * len(subjects) + 3.2))
    for axis, kind in zip(axes[0], kinds, strict=True):
        for number, subject in enumerate(subjects, 1):
            own = scores[subject.variant.name]
            middle = sum(own) / len(own)
            colour = f"C{number % 10}"
            axis.plot([subject.costs[kind]] * 2, [min(own), max(own)], color=colour, linewidth=1, alpha=0.6)
            axis.plot(subject.costs[kind], middle, "o", color=colour, markersize=4, label=f"{number} {_name(subject)}")
            axis.annotate(str(number), (subject.costs[kind], middle), (3, 3), textcoords="offset points", fontsize=7)
        axis.set(xlabel=kind, xlim=(0, None))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel(title)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    save_figure(figure, to)


def draw_fields(subjects: Sequence[Subject], to: Any) -> None:
    """Draw the receptive field of each variant around the pixel in the middle."""
    rows, columns = np.nonzero(np.sum([subject.field for subject in subjects], axis=0))
    seen = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    figure, axes = _panels(len(subjects), subjects[0].field[seen].shape)
    for axis, subject in zip(axes, subjects, strict=False):
        row, column = (size // 2 for size in subject.field.shape)
        half, most = (reach(subject.field, row, column, share) for share in (0.5, 0.95))
        axis.imshow(np.log10(subject.field[seen] / subject.field.max() + 1e-4), cmap="inferno", vmin=-4, vmax=0)
        axis.set_title(_heading(subject, f"half {half:.0f}, 95 % {most:.0f} pixels"), fontsize=7)
    save_figure(figure, to)


def draw_attention(subjects: Sequence[Subject], to: Any) -> None:
    """Draw the attention weights of each variant that has some."""
    shown = [(subject, subject.attention) for subject in subjects if subject.attention is not None]
    figure, axes = _panels(len(shown), shown[0][1][0].shape)
    for axis, (subject, (weights, row, column)) in zip(axes, shown, strict=False):
        top = np.abs(weights).max()
        axis.imshow(weights, cmap="RdBu_r", vmin=-top, vmax=top)
        axis.plot(column, row, "+", color="black")
        negative = np.abs(weights[weights < 0]).sum() / np.abs(weights).sum()
        axis.set_title(_heading(subject, f"{negative:.0%} negative"), fontsize=7)
    save_figure(figure, to)


def draw_depth(subjects: Sequence[Subject], what: str, label: str, to: Any) -> None:
    """Draw a value of each block, from the first of the encoder to the last of the decoder."""
    figure, axes = new_figure(1, 1, (9, 4))
    axis = axes[0, 0]
    for subject in subjects:
        axis.plot(subject.names, getattr(subject, what), marker=".", label=_name(subject))
    axis.set_ylabel(label)
    axis.set_yscale("log" if what == "spread" else "linear")
    axis.tick_params(axis="x", rotation=45, labelsize=7)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    save_figure(figure, to)


def _panels(count: int, shape: tuple[int, ...]) -> tuple[Any, Any]:
    columns = min(6, count)
    rows = math.ceil(count / columns)
    height = 1.9 * min(2.0, max(0.6, shape[0] / shape[1]))
    figure, axes = new_figure(rows, columns, (2.1 * columns, rows * (height + 0.5)))
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes.flat


def _name(subject: Subject) -> str:
    return plain(subject.variant.title)


def _heading(subject: Subject, more: str) -> str:
    return f"{textwrap.fill(_name(subject), 26)}\n{more}"


def _png(draw: Callable[[io.BytesIO], None]) -> bytes:
    file = io.BytesIO()
    draw(file)
    return file.getvalue()

"""Whether a study agrees with published figures: the sign of each difference to the published baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlla_seg.study.conclusions import Comparison, compared
from mlla_seg.study.plan import Plan, Variant
from mlla_seg.study.scores import LOWER_IS_BETTER, Scored

HEADER = ["design", "paper", "difference", "here", "95 % interval", "verdict"]


def agreement(plan: Plan, scored: Mapping[str, Sequence[Scored]], metric: str) -> tuple[str, list[list[str]]] | None:
    """Compare variants that have a published figure with the first of them, the published baseline.

    Args:
        plan: The study.
        scored: Scored runs of each variant that has any, by its name.
        metric: Name of the score.

    Returns:
        The title of the baseline, and a row for each other variant with ``HEADER``; None without two such variants.
    """
    found = [variant for variant in plan.variants if variant.paper is not None and variant.name in scored]
    if len(found) < 2:
        return None
    baseline, *others = found
    runs = {variant.name: scored[variant.name] for variant in found}
    comparisons = compared(runs, metric, {variant.name: variant.title for variant in found})
    return baseline.title, [_row(baseline, *pair) for pair in zip(others, comparisons, strict=True)]


def _row(baseline: Variant, variant: Variant, one: Comparison) -> list[str]:
    assert variant.paper is not None and baseline.paper is not None
    published = variant.paper - baseline.paper
    difference = one.difference
    interval = f"{difference.low:+.4f} .. {difference.high:+.4f}"
    return [
        variant.title,
        f"{variant.paper:g}",
        f"{published:+.1f}",
        f"{difference.value:+.4f}",
        interval,
        verdict(published, one),
    ]


def verdict(published: float, one: Comparison) -> str:
    """Return ``agrees`` or ``disagrees`` where a difference is shown here, and otherwise that none is."""
    if not one.sampled:
        return "one seed: nothing follows"
    if not one.shown:
        return "no difference shown"
    better = (one.difference.value > 0) != (one.metric in LOWER_IS_BETTER)
    return "agrees" if better == (published > 0) else "disagrees"

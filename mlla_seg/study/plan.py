"""What a study trains: variants of a config, their seeds, and the budget of each run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mlla_seg.data.shipped import find_config, read_config
from mlla_seg.errors import InputError, lookup, unknown
from mlla_seg.evaluation.surface_distance import BY_AREA, MEASURES

OWN = {
    "seed_everything": "seeds",
    "data.seed": "seeds",
    "trainer.max_steps": "steps",
    "trainer.max_epochs": "steps or minutes",
    "trainer.max_time": "minutes",
    "trainer.check_val_every_n_epoch": "split",
    "trainer.val_check_interval": "split",
    "trainer.logger": "output",
    "distances": "metric",
    "surface_area": "metric",
}
"""Options of the training that the study sets itself, and the key of the study for each."""


@dataclass(frozen=True)
class Variant:
    """A row of the study.

    Args:
        name: Name of its folder and in ``--only``.
        title: Title in tables.
        options: Options of ``fit`` by dotted name, over those of the base and of all variants.
        seeds: A training for each.
        paper: A figure published for this design, which is shown beside ours.
    """

    name: str
    title: str
    options: Mapping[str, Any]
    seeds: tuple[int, ...]
    paper: float | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """The training of one variant with one seed, and its scoring."""

    variant: Variant
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.variant.name}/{self.seed}"

    @property
    def facts(self) -> Path:
        """File that is written last, so that a run is done if it exists."""
        return self.folder / "done.json"

    @property
    def scored(self) -> Path:
        """Folder of the scores."""
        return self.folder / "scored"

    @property
    def done(self) -> bool:
        """Whether it was trained and scored."""
        return self.facts.is_file()


@dataclass(frozen=True)
class Plan:
    """A study.

    Args:
        base: Name or path of the config of all runs.
        options: Options of all runs, by dotted name.
        variants: The rows; the first is the reference of the comparisons.
        steps: Optimiser steps of each run; None if ``minutes`` limits it.
        minutes: Minutes of training of each run; None if ``steps`` limits it.
        split: The command that scores: ``validate`` or ``test``.
        metric: The compared score, see :data:`mlla_seg.study.scores.METRICS`; empty for the usual one of the data.
        jobs: Number of runs at a time.
        output: Folder of all runs.
    """

    base: str
    options: Mapping[str, Any]
    variants: tuple[Variant, ...]
    steps: int | None
    minutes: float | None
    split: str
    metric: str
    jobs: int
    output: Path

    def runs(self) -> list[Run]:
        """Return all runs: the first seed of every variant, then the second, so that an early table has all rows."""
        most = max(len(variant.seeds) for variant in self.variants)
        return [
            Run(variant, variant.seeds[k], self.output / variant.name / f"seed-{variant.seeds[k]}")
            for k in range(most)
            for variant in self.variants
            if k < len(variant.seeds)
        ]


def make_variants(content: Mapping[str, Any], seeds: Sequence[int]) -> tuple[Variant, ...]:
    """Return the variants of a study's file.

    Args:
        content: By name ``{title, options, seeds, paper}``, none of which is required.
        seeds: Seeds of the variants that do not list their own.

    Raises:
        InputError: There is none, or one has an unusable name, unknown keys or values of a wrong type.
    """
    if not content:
        raise InputError("variants is empty: give at least one, such as variants: {mlla: {title: MLLA}}.")
    return tuple(_variant(str(name), entry or {}, seeds) for name, entry in content.items())


def _variant(name: str, entry: Any, seeds: Sequence[int]) -> Variant:
    if not re.fullmatch(r"[\w+-][\w+.-]*", name):
        raise InputError(f"Variant {name!r} names a folder: use only letters, digits and . _ + -")
    if not isinstance(entry, Mapping):
        raise InputError(f"Variant {name}: expected {{title, options, seeds, paper}}, found {entry!r}.")
    keys = [field.name for field in fields(Variant) if field.name != "name"]
    for key in entry:
        if key not in keys:
            raise InputError(unknown(keys, str(key), f"key of variant {name}"))
    own, options, paper = entry.get("seeds") or seeds, entry.get("options") or {}, entry.get("paper")
    if not isinstance(options, Mapping):
        raise InputError(f"Variant {name}: options takes pairs such as model.mixer: lepe, found {options!r}.")
    whole = isinstance(own, Sequence) and own and all(type(seed) is int and seed >= 0 for seed in own)
    if not whole or len(set(own)) < len(own):
        raise InputError(f"Variant {name}: seeds takes a list of different whole numbers, found {own!r}.")
    if paper is not None and type(paper) not in (int, float):
        raise InputError(f"Variant {name}: paper takes a number, found {paper!r}.")
    return Variant(name, str(entry.get("title") or name), own_options(options, f"Variant {name}"), tuple(own), paper)


def own_options(options: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Return options by dotted name; refuses those that the study itself sets.

    Raises:
        InputError: See above.
    """
    flat = flattened(options)
    for key in flat:
        for own, instead in OWN.items():
            if key == own or key.startswith(f"{own}."):
                raise InputError(f"{whose}: {own} is set by the study itself: remove it, and use its key {instead}.")
    return flat


def flattened(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options by dotted name; objects with a ``class_path`` stay whole."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, Mapping) and value and "class_path" not in value
        flat |= flattened(value, f"{name}.") if nested else {name: value}
    return flat


def check(plan: Plan) -> None:
    """Check the budget of the runs and their base config.

    Raises:
        InputError: One cannot be used.
    """
    if (plan.steps is None) == (plan.minutes is None):
        raise InputError("A study needs one budget for all runs: give either steps or minutes.")
    if (plan.steps or plan.minutes or 0) <= 0 or plan.jobs < 1:
        raise InputError(
            f"steps, minutes and jobs must be more than 0, got {plan.steps or plan.minutes or 0} and {plan.jobs}."
        )
    find_config(plan.base)


def require_known_options(plan: Plan) -> None:
    """Refuse options that no training would accept, before hours are spent on the others.

    Raises:
        InputError: Names the option and similar ones.
    """
    for whose, options in (("options", plan.options), *((f"Variant {v.name}", v.options) for v in plan.variants)):
        for key in options:
            names = list(_known_options())
            section = [name for name in names if name.split(".")[0] == key.split(".")[0]]
            if not key.startswith("trainer."):  # left to Lightning
                lookup(dict.fromkeys(section or names), key, f"option of {whose}:")


def _known_options() -> Iterator[str]:
    """Return the names of the options of scoring, network and data."""
    from inspect import signature

    from mlla_seg.data.datamodule import SegmentationDataModule
    from mlla_seg.training.module import SegmentationModule
    from mlla_seg.training.scoring import Scoring

    yield from (field.name for field in fields(Scoring) if field.name not in (*OWN, "members"))
    for section, owner in (("model", SegmentationModule), ("data", SegmentationDataModule)):
        yield from (f"{section}.{name}" for name in signature(owner).parameters if name not in ("spec", "seed"))


def asked(plan: Plan, run: Run, threads: int) -> dict[str, Any]:
    """Return all that decides the result of a run, for ``asked.json``; it can be written as JSON as it is.

    Args:
        plan: The study.
        run: One of its runs.
        threads: Cores of each run, which matter to a budget in minutes.
    """
    base = flattened(read_config(plan.base))
    kept = {k: v for k, v in base.items() if k != "recipe" and not any(k == o or k.startswith(f"{o}.") for o in OWN)}
    budget = {"steps": plan.steps} if plan.steps else {"minutes": plan.minutes, "threads": threads}
    settings = {**kept, **plan.options, **run.variant.options}
    measured = {"distances": plan.metric in (*MEASURES, *BY_AREA)}  # which takes long
    measured |= {"surface_area": True} if plan.metric in BY_AREA else {}
    return {**budget, "seed": run.seed, "split": plan.split, **measured, **settings}


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return what differs between two :func:`asked`, each such as ``model.lr was 0.001, now 0.002``."""
    absent = "not set"
    keys = [key for key in {**found, **wanted} if found.get(key, absent) != wanted.get(key, absent)]
    return [f"{key} was {found.get(key, absent)}, now {wanted.get(key, absent)}" for key in keys]


def chosen(plan: Plan, only: Sequence[str] | None) -> list[Run]:
    """Return the runs named by ``NAME`` or ``NAME/SEED``; all if none is named.

    Raises:
        InputError: A variant or seed is not in the plan.
    """
    runs, found = plan.runs(), []
    if only is None:
        return runs
    variants = {variant.name: variant for variant in plan.variants}
    for word in only:
        name, _, seed = word.partition("/")
        variant = lookup(variants, name, "variant")
        if seed and seed not in map(str, variant.seeds):
            raise InputError(f"--only {word}: {name} has the seeds {', '.join(map(str, variant.seeds))}.")
        found += [run for run in runs if run.variant is variant and seed in ("", str(run.seed))]
    return list({str(run): run for run in found}.values())

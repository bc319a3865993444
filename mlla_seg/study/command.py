"""The commands study and compare."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mlla_seg.errors import InputError, lookup, program
from mlla_seg.evaluation.score_tables import write_latex_table
from mlla_seg.evaluation.tables import format_table
from mlla_seg.progress import note, progress, say
from mlla_seg.study import results
from mlla_seg.study.conclusions import compared, explanation, published, sentence, table
from mlla_seg.study.masks import SPLITS, Truth, is_folder_of_masks, score_masks, truth_of
from mlla_seg.study.plan import Plan, check, chosen, make_variants, own_options, require_known_options
from mlla_seg.study.runs import require_as_asked, run_all
from mlla_seg.study.scores import METRICS, find_scored, on_common_cases, read_scored, read_summary, usual_metric


def study(
    base: str,
    variants: dict[str, Any],
    options: dict[str, Any] = {},  # noqa: B006 - read only, and shown by --help
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    steps: int | None = None,
    minutes: float | None = None,
    split: Literal["validate", "test"] = "test",
    metric: str = "",
    jobs: int = 1,
    output: str = "runs/study",
    only: list[str] | None = None,
    print_jobs: bool = False,
    gather: bool = False,
    pictures: bool = True,
) -> None:
    """Train variants of a config over several seeds under one budget, and say which differ.

    Every run is trained and scored in processes of its own, in OUTPUT/VARIANT/seed-N. Runs that are done are kept:
    after an interruption, or with further seeds or variants, start the same command again. Ends with study.csv,
    study.html and compare's conclusions about all variants against the first.

    Args:
        base: Config of all runs: a shipped name or a path.
        variants: By name: {title, options, seeds, paper}; options as in fit, such as {model.mixer: lepe}; paper is a
            published figure to show beside ours.
        options: Options of all variants, such as {data.root: /data/hippocampus}.
        seeds: Seeds of each variant that does not list its own.
        steps: Optimiser steps of each run.
        minutes: Or minutes of training; the learning-rate schedule spans them, so a faster network takes more steps.
        split: What scores the runs: validate or test.
        metric: Score to compare; by default pooled_iou for single images such as aerial tiles, and dice for volumes.
        jobs: Number of runs at a time, which share the cores.
        output: Folder of all runs.
        only: Run these and no others, such as `--only mlla lepe/0`.
        print_jobs: Print the command of each run that is not done, for the array of a cluster, and run nothing.
        gather: Run nothing, and show the results of what is done.
        pictures: Add receptive fields, attention, token norms, forget gates and costs to the page, about two seconds
            for each variant.
    """
    if metric:
        lookup(METRICS, metric, "metric")
    every = own_options(options, "options")
    plan = Plan(base, every, make_variants(variants, seeds), steps, minutes, split, metric, jobs, Path(output))
    runs = chosen(plan, only)
    check(plan)
    require_as_asked(plan, plan.runs())
    if not (print_jobs or gather):
        require_known_options(plan)
    if print_jobs:
        say("\n".join(_command(str(run)) for run in runs if not run.done))
        return
    failed = {} if gather else run_all(plan, runs)
    found = results.gather(plan)
    if found is not None:
        files = results.write_study(plan, found, drawn(plan, found) if pictures else ())
        say(f"\n{results.report(plan, found)}\n")
        say("\n".join(f"{path.name:<10} {path}" for path in files))
    say(results.missing(plan))
    if failed:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise InputError(f"{len(failed)} of {len(runs)} runs failed; the same command tries them again.\n{reasons}")


def drawn(plan: Plan, found: results.Results) -> list[results.Section]:
    """Return the pictures of the networks that are done; none, with a note, if they or the data cannot be read."""
    from mlla_seg.study.pictures import sections
    from mlla_seg.study.subjects import examples, subject, with_speed

    first = {run.variant.name: run for run in reversed(plan.runs()) if run.done}
    runs = [first[variant.name] for variant in plan.variants if variant.name in first]
    scores: dict[str, list[float]] = {name: [] for name in first}
    for row in found.runs:
        scores[row["variant"]].append(row["score"])
    try:
        images = examples(plan)
        with progress(len(runs), "pictures", "variant", leave=False) as bar:
            subjects = []
            for run in runs:
                subjects.append(subject(run, images))
                bar.update()
        return sections(with_speed(subjects), scores, METRICS[found.metric])
    except InputError as error:
        note(f"note: the page has no pictures of the networks: {error}")
        return []


def _command(run: str) -> str:
    """Return this command for one run."""
    kept: list[str] = []
    option = ""
    for word in sys.argv[1:]:
        option = word.split("=")[0] if word.startswith("--") else option
        if option not in ("--print_jobs", "--only"):
            kept.append(word)
    return f"{program()} {shlex.join([*kept, '--only', run])}"


def compare(
    runs: list[str],
    metric: str = "",
    output: str = "compare.png",
    truth: str | None = None,
    split: Literal["validate", "test"] | None = None,
) -> None:
    """Compare designs by the scores of their runs on the same cases, over patients and over seeds.

    Prints the paired differences to the first design with 95 % intervals, and one sentence of conclusion for each, and
    draws them as a forest plot. Each folder holds the scored runs of one design, as study writes them, or one scored
    run, or masks of another program, which are scored in the same way against the same truth: a mask per case, or a
    folder per case with a binary NIfTI per organ, as TotalSegmentator writes them.

    Args:
        runs: Folders, such as `--runs runs/study/mlla runs/study/lepe`; the first is the reference.
        metric: Score to compare, such as dice, iou, nsd or pooled_iou; by default pooled_iou for single images such as
            aerial tiles, and dice for volumes.
        output: PNG file of the forest plot; the table is written beside it as LaTeX, and scores of masks in a folder.
        truth: Config of fit with the data that folders of masks are scored against; by default that of the first run.
        split: Split of that truth, validate or test; by default that of the first scored run, or test.
    """
    if len(runs) < 2:
        raise InputError("compare needs two folders or more: --runs FOLDER FOLDER ...")
    if metric:
        lookup(METRICS, metric, "metric")
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise InputError(f"--runs names a folder twice: {' '.join(runs)}.")
    names = _names(runs)
    masks = {name: Path(run) for name, run in zip(names, runs, strict=True) if is_folder_of_masks(Path(run))}
    folders = {name: find_scored(Path(run)) for name, run in zip(names, runs, strict=True) if name not in masks}
    if masks:
        first = next(iter(folders.values()))[0] if folders else None
        against = _truth(first, truth, split, metric)
        place = Path(output).with_suffix("").with_name(f"{Path(output).stem}_scores")
        scored = {name: score_masks(folder, against, place / Path(name).name) for name, folder in masks.items()}
        folders |= {name: [folder] for name, folder in scored.items()}
        say(f"Scores of masks: {', '.join(map(str, scored.values()))}")
    metric = metric or usual_metric(folders[names[0]][0])
    designs = {name: [read_scored(folder, metric) for folder in folders[name]] for name in names}
    if masks:
        designs = on_common_cases(designs)
    comparisons = compared(designs, metric)
    results.forest(comparisons, Path(output))
    write_latex_table(Path(output).with_suffix(".tex"), *published(designs, comparisons), explanation(comparisons))
    say(f"{format_table(*table(comparisons))}\n{explanation(comparisons)}\n")
    say("\n".join(sentence(one) for one in comparisons))
    say(f"\nPlot: {output}, table: {Path(output).with_suffix('.tex')}")


def _truth(first: Path | None, config: str | None, split: str | None, metric: str) -> Truth:
    """Return what masks are scored against: the config and split named, or those of the first scored run."""
    summary = read_summary(first) if first is not None else None
    source = config or (first and first / "config.yaml")
    if source is None or not (config or Path(source).is_file()):
        missing = f"{source} does not exist" if source else "no scored run is among them"
        raise InputError(f"--runs has folders of masks, but {missing}: name the truth with --truth CONFIG.")
    chosen = SPLITS[split] if split else summary["split"] if summary else "test"
    return truth_of(source, chosen, metric or "dice", summary)


def _names(runs: Sequence[str]) -> list[str]:
    """Return the names of the folders, or their whole paths where names alone are the same or say nothing."""
    short = [Path(run).name for run in runs]
    telling = len(set(short)) == len(short) and "scored" not in short
    return short if telling else list(runs)

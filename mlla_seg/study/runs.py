"""Trains and scores the runs of a study, each in processes of its own, as a user would by hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from statistics import median
from typing import Any

from mlla_seg import locks
from mlla_seg.errors import InputError
from mlla_seg.evaluation.tables import write_json
from mlla_seg.progress import note
from mlla_seg.study.guard import guarded
from mlla_seg.study.plan import Plan, Run, asked, differences
from mlla_seg.texts import read_json

ELSEWHERE = "another process is at it"
"""Reason why a run was left alone."""
NEVER = 100_000
"""Epochs between validations; nothing is validated before the end."""


def threads(jobs: int) -> int:
    """Return the number of cores per run: an equal share, or OMP_NUM_THREADS if it is set."""
    own = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(own) if own.isdecimal() else max(1, cores // jobs)


def require_as_asked(plan: Plan, runs: Sequence[Run]) -> None:
    """Refuse runs that are done, but were asked with other options.

    Raises:
        InputError: Names the first such run and all that differs.
    """
    for run in runs:
        if run.done:
            found = read_json(run.folder / "asked.json")
            if differ := differences(found, asked(plan, run, threads(plan.jobs))):
                raise InputError(
                    f"{run.folder} was run with other options: {'; '.join(differ)}. Use another output, or remove it."
                )


def run_all(plan: Plan, runs: Sequence[Run]) -> dict[str, str]:
    """Train and score the runs that are not done, with a progress bar; returns why some failed, by name."""
    left, failed = [run for run in runs if not run.done], dict[str, str]()
    known = [read_json(run.facts)["seconds"] for run in runs if run.done]
    started, processes = dict[Run, float](), set[subprocess.Popen[bytes]]()
    if not left:
        return failed

    def job(run: Run) -> str:
        started[run] = time.monotonic()
        return train_and_score(plan, run, processes)

    from tqdm import tqdm

    layout = "{desc}: {n_fmt}/{total_fmt} runs |{bar}| {elapsed}{postfix}"
    with (
        ThreadPoolExecutor(plan.jobs) as pool,
        tqdm(desc="study", total=len(runs), initial=len(runs) - len(left), bar_format=layout) as bar,
    ):
        jobs: dict[Future[str], Run] = {pool.submit(job, run): run for run in left}
        open_jobs = set(jobs)
        try:
            while open_jobs:
                done, open_jobs = wait(open_jobs, timeout=5)
                for future in done:
                    run = jobs[future]
                    if reason := future.result():
                        failed[str(run)] = reason
                        note(f"{run}: {reason}")
                    elif run.done:
                        known.append(read_json(run.facts)["seconds"])
                    bar.update()
                busy = [time.monotonic() - started[jobs[future]] for future in open_jobs if jobs[future] in started]
                live = bool(done) or sys.stderr.isatty()  # in a file, a line per run
                bar.set_postfix_str(_left(plan, known, busy, len(open_jobs)), refresh=live)
        except BaseException:  # such as Ctrl-C: what runs is cut, what waits is not begun
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(processes):
                process.kill()
            raise
    return failed


def _left(plan: Plan, known: Sequence[float], busy: Sequence[float], left: int) -> str:
    """Return the time left of the whole study, from the runs that are done or from the budget."""
    each = median(known) if known else 60 * (plan.minutes or 0)
    if not each or not left:
        return ""
    seconds = max(each * left - sum(min(spent, each) for spent in busy), 0) / min(plan.jobs, left)
    minutes = round(seconds / 60)
    return f"about {minutes // 60} h {minutes % 60:02} min left" if minutes >= 60 else f"about {minutes} min left"


def train_and_score(plan: Plan, run: Run, processes: set[subprocess.Popen[bytes]]) -> str:
    """Run fit and scoring, logged beside the weights; returns why it failed, or nothing.

    What a killed study left of the run is removed first.

    Args:
        plan: The study.
        run: The run.
        processes: Holds the process while it runs.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with locks.held(run.folder, str):
            if run.done:  # by another process since
                return ""
            for name in ("trained", "scored"):
                shutil.rmtree(run.folder / name, ignore_errors=True)
            write_json(run.folder / "asked.json", asked(plan, run, threads(plan.jobs)))
            begun = time.monotonic()
            for name, arguments in commands(plan, run).items():
                if reason := _call(plan, run.folder / f"{name}.log", arguments, processes):
                    return reason
                if name == "trained":
                    seconds = time.monotonic() - begun
            write_json(run.facts, {**trained_facts(run), "seconds": round(seconds, 1)})
    except locks.Held:
        return ELSEWHERE
    return ""


def commands(plan: Plan, run: Run) -> dict[str, list[str]]:
    """Return the arguments of the program for training and scoring, by the name of their folder."""
    options = {**plan.options, **run.variant.options}
    common = ["--config", plan.base, *(f"--{key}={_word(value)}" for key, value in options.items())]
    wanted = asked(plan, run, 1)
    common += [f"--{key}={_word(wanted.get(key, False))}" for key in ("distances", "surface_area")]
    common += ["--trainer.enable_progress_bar=false"]
    budget = {"max_steps": plan.steps or -1, "max_epochs": -1, "max_time": _duration(plan.minutes)}
    budget |= {"check_val_every_n_epoch": NEVER, "val_check_interval": None}
    fit = [f"--seed_everything={run.seed}", f"--data.seed={run.seed}"]
    fit += [f"--trainer.{key}={_word(value)}" for key, value in budget.items()]
    score = ["--ckpt_path", str(_weights(run))]
    return {
        "trained": ["fit", *common, *fit, _logger(run, "trained")],
        "scored": [plan.split, *common, *score, _logger(run, "scored")],
    }


def trained_facts(run: Run) -> dict[str, Any]:
    """Return optimiser steps and millions of trained parameters of a run."""
    from mlla_seg.models.checkpoint import read_checkpoint

    content = read_checkpoint(_weights(run))
    states = content["optimizer_states"][0]["state"].values()
    parameters = sum(state["exp_avg"].numel() for state in states)
    return {"steps": content["global_step"], "parameters_m": parameters / 1e6}


def _weights(run: Run) -> Path:
    return run.folder / "trained" / "checkpoints" / "last.ckpt"


def _duration(minutes: float | None) -> str | None:
    """Return minutes as Lightning's DD:HH:MM:SS."""
    if minutes is None:
        return None
    seconds = max(1, round(60 * minutes))
    return f"{seconds // 86400:02}:{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _logger(run: Run, version: str) -> str:
    place = {"save_dir": str(run.folder.parent), "name": run.folder.name, "version": version}
    return f"--trainer.logger={json.dumps({'class_path': 'lightning.pytorch.loggers.CSVLogger', 'init_args': place})}"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _call(plan: Plan, log: Path, arguments: Sequence[str], processes: set[subprocess.Popen[bytes]]) -> str:
    """Run the program and return the last line of its log if it failed."""
    with log.open("wb") as file:
        command = guarded([sys.executable, "-m", "mlla_seg", *arguments])
        environment = _environment(plan)
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        processes.add(process)
        status = process.wait()
        processes.discard(process)
    if not status:
        return ""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{arguments[0]} ended with status {status}: {lines[-1].strip() if lines else 'no output'} (see {log})"


def _environment(plan: Plan) -> Mapping[str, str]:
    """Return the environment of a run: this very package, and its share of the cores."""
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads(plan.jobs))}

"""Compare networks under the same recipe and time budget: python benchmarks/compare.py CONFIG [options] [-- more].

Each row is trained from scratch with the recipe of the config for --minutes and every seed, and scored on --split. The
learning-rate schedule spans the time limit, so a faster network takes more steps. Prints mean, standard deviation and
values per seed. Runs are kept below --output; existing runs with the same options are not repeated, so seeds can be
added later.

    python benchmarks/compare.py configs/hippocampus.yaml --rows config resnet34 dynunet --minutes 10 --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from mlla_seg.evaluation.tables import format_table

ROOT = Path(__file__).parents[1]
ROWS: dict[str, tuple[str, list[str]]] = {
    "config": ("as the config says", []),
    "published": ("MLLA-UNet", ["--model.decoder=mlla_unet"]),
    "unet": ("MLLA encoder, smp Unet", ["--model.decoder=unet"]),
    "unet_bare": ("the same without norms", ["--model.decoder=unet", "--model.norm_outputs=false"]),
    "lepe": ("mixer lepe", ["--model.mixer=lepe"]),
    "lepe_matched": ("mixer lepe_matched", ["--model.mixer=lepe_matched"]),
    "identity": ("mixer identity", ["--model.mixer=identity"]),
    "resnet18": ("smp ResNet-18, same decoder", ["--model.encoder=smp/resnet18"]),
    "resnet34": ("smp Unet-ResNet34", ["--model.encoder=smp/resnet34", "--model.decoder=unet"]),
    "dynunet": ("MONAI DynUNet", ["--model.encoder=monai/dynunet", "--model.decoder=none"]),
    "segresnet": ("MONAI SegResNet", ["--model.encoder=monai/segresnet", "--model.decoder=none"]),
}
"""Networks to compare: title in the table, and options of ``fit``."""


@dataclass(frozen=True)
class Run:
    """Training of one network with one seed."""

    row: str
    seed: int
    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / "scored" / "summary.json"


def threads(jobs: int) -> int:
    """Return the number of cores per run, of those available to this process."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def train_and_score(run: Run, options: argparse.Namespace) -> None:
    """Run fit and scoring in subprocesses, as a user would; their output is logged beside the weights."""
    asked = {"minutes": options.minutes, "split": options.split, "jobs": options.jobs, "config": options.config}
    asked |= {"row": ROWS[run.row][1], "more": options.more}
    note = run.folder / "asked.json"
    if run.result.is_file():
        if (found := json.loads(note.read_text())) != asked:
            raise SystemExit(f"{run.folder} was run with {found}, not with {asked}. Use another --output.")
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads(options.jobs))}
    common = ["--config", options.config, *options.more, *ROWS[run.row][1], "--trainer.enable_progress_bar=false"]
    fit = [
        *common,
        f"--seed_everything={run.seed}",
        f"--data.seed={run.seed}",
        "--trainer.max_epochs=-1",
        f"--trainer.max_time={{'minutes': {options.minutes:g}}}",
        "--trainer.check_val_every_n_epoch=100000",
    ]
    weights = run.folder / "trained" / "checkpoints" / "last.ckpt"
    score = [*common, "--distances=false", "--ckpt_path", str(weights)]
    run.folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(asked))
    for name, command, arguments in (("trained", "fit", fit), ("scored", options.split, score)):
        place = {"save_dir": run.folder.parent, "name": run.folder.name, "version": name}
        logger = [f"--trainer.logger.init_args.{key}={value}" for key, value in place.items()]
        with (run.folder / f"{name}.log").open("w") as log:
            call = [sys.executable, str(ROOT / "cli.py"), command, *arguments, *logger]
            if subprocess.run(call, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode:
                raise SystemExit(f"{command} of {run.row} with seed {run.seed} failed: see {log.name}")


def facts(run: Run) -> tuple[float, int, float]:
    """Return score, steps and millions of parameters."""
    metrics = json.loads(run.result.read_text())
    score = next(value for key, value in metrics.items() if key.endswith("/dice"))
    content = torch.load(run.folder / "trained/checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    counts = [value.numel() for name, value in content["state_dict"].items() if name.startswith("network.")]
    return score, content["global_step"], sum(counts) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["config", "resnet34", "dynunet"])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split", choices=("validate", "test"), default="test")
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel runs, which share the cores")
    parser.add_argument("--output", default="runs/compare")
    known, more = sys.argv[1:], []
    if "--" in known:
        known, more = known[: known.index("--")], known[known.index("--") + 1 :]
    options = parser.parse_args(known, argparse.Namespace(more=more))
    runs = [Run(row, seed, Path(options.output) / f"{row}-{seed}") for seed in options.seeds for row in options.rows]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(tqdm(pool.map(lambda run: train_and_score(run, options), runs), total=len(runs), unit="run"))
    table = []
    for row in options.rows:
        found = [facts(run) for run in runs if run.row == row]
        scores = [score for score, *_ in found]
        spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
        steps = statistics.median(steps for _, steps, _ in found)
        single = " ".join(f"{score:.4f}" for score in scores)
        table.append([ROWS[row][0], found[0][2], f"{steps:.0f}", statistics.mean(scores), spread, single])
    machine = platform.processor() or platform.machine()
    budget = f"{options.minutes:g} minutes, {threads(options.jobs)} of {os.cpu_count()} cores"
    print(f"{options.config}, {options.split}: {budget}, {machine}")
    print(format_table(["network", "M weights", "steps", "Dice", "deviation", "by seed"], table))


if __name__ == "__main__":
    main()

"""Masked pretraining and the mean teacher with few labels: python benchmarks/pretraining.py hippocampus --root FOLDER.

Pretrains an encoder on the images of all training patients, without their labels and without any image of validation
and test. Then trains segmenters from these weights and from scratch, with the labels of few and of all patients, in the
same number of steps and from the same seeds, and compares them on the test patients: a study for each number of
patients. With ``--unlabelled``, a mean teacher that also learns from the images of other patients is a third design.
The patients with labels are drawn once; there is one pretraining, so intervals do not cover its own spread.
An interrupted run goes on when it is started again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from mlla_seg.data.card import find_card
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.shipped import read_config

PROGRAM = Path(__file__).parents[1] / "cli.py"
SHARED = ("context", "resize", "crop", "channels", "spacing_mm", "plane", "augment", "mirror", "num_workers")
"""Options of the data that the pretraining takes over from the config."""


def run(*words: object) -> None:
    """Run a command of the program; ends the benchmark if it fails."""
    command = [sys.executable, str(PROGRAM), *map(str, words)]
    print("$", " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def options_of(given: dict[str, Any], prefix: str) -> list[str]:
    """Return options as words of a command line."""
    return [
        f"--{prefix}.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items()
    ]


def write_card(folder: Path, card: str, patients: dict[str, list[str]]) -> Path:
    """Write a copy of a card whose splits are lists of patients, and return its path."""
    source = find_card(card)
    shutil.copytree(source.parent, folder, dirs_exist_ok=True)
    content = yaml.safe_load(source.read_text())
    content["splits"] = {split: f"{split}.txt" for split, listed in patients.items() if listed}
    for split, listed in patients.items():
        (folder / f"{split}.txt").write_text("".join(f"{patient}\n" for patient in listed))
    (folder / "dataset.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "dataset.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="config of fit: a shipped name or a path")
    parser.add_argument("--root", required=True, help="folder of the data")
    parser.add_argument("--encoder", default="mlla_nano")
    parser.add_argument("--labelled", type=int, nargs="+", default=[5, 20, 0], help="patients with labels; 0 for all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps of each segmenter")
    parser.add_argument("--pretraining_steps", type=int, default=10_000)
    parser.add_argument("--unlabelled", help="folder of the images, for a mean teacher where few patients have labels")
    parser.add_argument("--patch", type=int, default=16, help="side of masked patches")
    parser.add_argument("--batch_size", type=int, default=24, help="of both, which must be at most 5 patients' slices")
    parser.add_argument("--output", type=Path, default=Path("runs/pretraining"))
    given = parser.parse_args()
    config = read_config(given.base)
    data = {**config["data"], "root": given.root}
    shared = {key: data[key] for key in SHARED if key in data}
    splits = SegmentationDataModule(**data).splits
    patients = {split: sorted({case.patient for case in getattr(splits, split)}) for split in ("train", "val", "test")}
    order = random.Random(0).sample(patients["train"], len(patients["train"]))
    everyone = write_card(given.output / "cards" / "all", data["card"], patients)

    weights = given.output / "pretrained" / "weights" / "checkpoints" / "last.ckpt"
    logger = {"save_dir": str(given.output), "name": "pretrained", "version": "weights"}
    run(
        *("pretrain", "--config", "pretrain_masked", "--ckpt_path", "last"),
        *options_of({"card": str(everyone), "root": given.root, "patch": given.patch, **shared}, "data"),
        *options_of({"batch_size": given.batch_size}, "data"),
        *options_of({"encoder": given.encoder}, "model"),
        *options_of({"max_epochs": -1, "max_steps": given.pretraining_steps}, "trainer"),
        *options_of(logger, "trainer.logger.init_args"),
    )
    for count in given.labelled:
        name = f"labelled_{count or 'all'}"
        card = write_card(given.output / "cards" / name, data["card"], {**patients, "train": order[: count or None]})
        options = {"data.card": str(card), "data.root": given.root, "data.batch_size": given.batch_size}
        variants: dict[str, Any] = {
            "scratch": {"title": "from scratch"},
            "masked": {"title": "masked pretraining", "options": {"model.pretrained": str(weights)}},
        }
        if given.unlabelled and count:
            variants["teacher"] = {"title": "mean teacher", "options": {"data.unlabelled": given.unlabelled}}
        study = {
            "base": given.base,
            "options": {**options, "model.encoder": given.encoder, "data.num_workers": data.get("num_workers", 0)},
            "steps": given.steps,
            "seeds": given.seeds,
            "output": str(given.output / name),
            "pictures": False,
            "variants": variants,
        }
        path = given.output / f"{name}.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        run("study", "--config", path)


if __name__ == "__main__":
    main()

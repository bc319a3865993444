"""``python cli.py preview``: training samples with their masks, as the network gets them, on one picture to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.labels import IGNORED
from mlla_seg.errors import InputError, program
from mlla_seg.evaluation.plots import plot_samples


def preview(argv: Sequence[str]) -> None:
    """Reads the command line, draws samples of the first epoch and says where the picture is."""
    options = parse(argv[1:])
    data = SegmentationDataModule(**options.data.as_dict())
    data.prepare_data()
    data.setup("fit")
    count = len(data.train_set)
    if count == 0:
        raise InputError(f"{data.card.name} has no training case in {data.root}, so there is nothing to preview.")
    samples = [data.train_set[0, k * count // options.samples] for k in range(min(options.samples, count))]
    intensity = f"intensity {data.intensity:g}, balance {float(data.balance):g}"
    plot_samples(
        samples,
        channel=data.context * len(data.spec.channels),
        classes=data.spec.classes,
        background=data.spec.background,
        output=Path(options.output),
        title=f"{data.card.title}: augment {data.augment}, {intensity}",
    )
    masks = torch.stack([sample["mask"] for sample in samples])
    known = masks != IGNORED
    held = (known & (masks != data.spec.background)).any(dim=(1, 2)).sum()
    print(
        f"{len(samples)} of {count} samples, {held} with a class besides the background; {(~known).float().mean():.0%} "
        f"of their pixels are ignored. Written: {options.output}"
    )


def parse(argv: Sequence[str]) -> Namespace:
    """The options; of config files the part about the data."""
    parser = ArgumentParser(prog=f"{program()} preview", exit_on_error=False)
    parser.add_argument("--config", help="a config of fit; several are merged")
    parser.add_argument("--output", default="preview.png", help="the picture, a PNG")
    parser.add_argument("--samples", type=int, default=16, help="how many samples it shows")
    parser.add_class_arguments(SegmentationDataModule, "data")
    configs, rest = _split(argv)
    for path in configs:
        parser.set_defaults({f"data.{key}": value for key, value in _data_of(Path(path)).items()})
    options = parser.parse_args(rest)
    if options.samples < 1:
        raise InputError(f"--samples is a number of samples, 1 or more, got {options.samples}.")
    return options


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Config files, and all other words."""
    configs, rest, words = [], [], iter(argv)
    for word in words:
        if word == "--config":
            configs.append(next(words, ""))
        elif word.startswith("--config="):
            configs.append(word.split("=", 1)[1])
        else:
            rest.append(word)
    return configs, rest


def _data_of(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"--config {path}: no such file.")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict):
        raise InputError(f"{path}: has no section data, as configs of fit do.")
    return data

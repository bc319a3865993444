"""The command preview: a contact sheet of augmented training samples with their masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.errors import InputError, program
from mlla_seg.evaluation.plots import plot_samples


def preview(argv: Sequence[str]) -> None:
    """Parse the command line, draw samples of the first epoch and print the path of the image."""
    options = parse(argv[1:])
    data = SegmentationDataModule(**options.data.as_dict())
    data.prepare_data()
    data.setup("fit")
    count = len(data.train_set)
    if count == 0:
        raise InputError(f"{data.card.name} has no training cases in {data.root}, so there is nothing to preview.")
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
    known = masks != IGNORE_INDEX
    held = (known & (masks != data.spec.background)).any(dim=(1, 2)).sum()
    print(
        f"{len(samples)} of {count} samples, {held} with foreground classes; {(~known).float().mean():.0%} "
        f"of all pixels are ignored. Written: {options.output}"
    )


def parse(argv: Sequence[str]) -> Namespace:
    """Parse the options; of config files only the section ``data`` is used."""
    parser = ArgumentParser(prog=f"{program()} preview", exit_on_error=False)
    parser.add_argument("--config", help="config file of fit; several are merged")
    parser.add_argument("--output", default="preview.png", help="PNG file to write")
    parser.add_argument("--samples", type=int, default=16, help="number of samples to draw")
    parser.add_class_arguments(SegmentationDataModule, "data")
    configs, rest = _split(argv)
    for path in configs:
        parser.set_defaults({f"data.{key}": value for key, value in _data_of(Path(path)).items()})
    options = parser.parse_args(rest)
    if options.samples < 1:
        raise InputError(f"--samples must be 1 or more, got {options.samples}.")
    return options


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into config files and the rest."""
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
        raise InputError(f"{path}: has no section 'data'. Give a config of fit.")
    return data

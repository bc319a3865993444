"""The command preview: a contact sheet of augmented training samples with their masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.errors import InputError, program
from mlla_seg.evaluation.plots import plot_samples
from mlla_seg.progress import say
from mlla_seg.training.config_sections import parse_sections


def preview(argv: Sequence[str]) -> None:
    """Parse the command line, draw samples of the first epoch and print the path of the image."""
    options = parse(argv[1:])
    data = SegmentationDataModule(**options.data.as_dict())
    data.prepare_data()
    data.setup("fit")
    count = len(data.train_set)
    if count == 0:
        raise InputError(f"{data.card.name} has no training cases in {data.root}, so there is nothing to preview.")
    shown = min(options.samples, count)
    samples = [data.train_set[0, k * count // shown] for k in range(shown)]
    intensity = f"intensity {data.intensity:g}, balance {float(data.balance):g}"
    plot_samples(
        [middle_slice(sample, data.spec.background) for sample in samples] if data.spec.axes == 3 else samples,
        channel=data.context * len(data.spec.channels),
        classes=data.spec.classes,
        background=data.spec.background,
        output=Path(options.output),
        title=f"{data.card.title}: augment {data.augment}, {intensity}",
    )
    masks = torch.stack([sample["mask"] for sample in samples])
    known = masks != IGNORE_INDEX
    held = (known & (masks != data.spec.background)).flatten(1).any(dim=1).sum()
    say(
        f"{len(samples)} of {count} samples, {held} with foreground classes; {(~known).float().mean():.0%} "
        f"of all pixels are ignored. Written: {options.output}"
    )


def middle_slice(sample: Mapping[str, Any], background: int | None) -> dict[str, Any]:
    """Return the slice of a patch ``(C, D, H, W)`` with most pixels of classes, or the middle one without any."""
    mask = sample["mask"]
    counts = ((mask != background) & (mask != IGNORE_INDEX)).flatten(1).sum(dim=1)
    position = int(counts.argmax()) if counts.any() else len(mask) // 2
    name = f"{sample['name']}, slice {position} of {len(mask)}"
    return {"image": sample["image"][:, position], "mask": mask[position], "name": name}


def parse(argv: Sequence[str]) -> Namespace:
    """Parse the options; of config files only the section ``data`` is used."""
    parser = ArgumentParser(prog=f"{program()} preview", exit_on_error=False)
    parser.add_argument("--config", help="config file of fit; several are merged")
    parser.add_argument("--output", default="preview.png", help="PNG file to write")
    parser.add_argument("--samples", type=int, default=16, help="number of samples to draw")
    parser.add_class_arguments(SegmentationDataModule, "data")
    options = parse_sections(parser, argv, ["data"])
    if options.samples < 1:
        raise InputError(f"--samples must be 1 or more, got {options.samples}.")
    return options

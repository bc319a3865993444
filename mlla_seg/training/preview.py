"""The command preview: a contact sheet of augmented training samples with their masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.formats.bands import shown_channels
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.errors import InputError, program
from mlla_seg.evaluation.plots import plot_samples
from mlla_seg.progress import say
from mlla_seg.training.config_sections import add_sections_of_fit, data_options, parse_sections


def preview(argv: Sequence[str]) -> None:
    """Parse the command line, draw samples of the first epoch and print the path of the image."""
    options = parse(argv[1:])
    data = SegmentationDataModule(**data_options(options.as_dict()))
    data.prepare_data()
    data.setup("fit")
    count = len(data.train_set)
    if count == 0:
        raise InputError(f"{data.card.name} has no training cases in {data.root}, so there is nothing to preview.")
    shown = min(options.samples, count)
    samples = [data.train_set[0, k * count // shown] for k in range(shown)]
    intensity = f"intensity {data.sample.intensity:g}, balance {float(data.sample.balance):g}"
    steps = data.spec.spacing_mm or (1, 1, 1)
    thickness = max(1, round((steps[0] or 1) / (steps[2] or 1)))
    plot_samples(
        [sections(sample, data.spec.background, thickness) for sample in samples] if data.spec.axes == 3 else samples,
        shown=shown_channels(data.spec.channels, data.sample.context),
        classes=data.spec.classes,
        background=data.spec.background,
        output=Path(options.output),
        title=f"{data.card.title}: augment {data.sample.augment}, {intensity}",
    )
    masks = torch.stack([sample["mask"] for sample in samples])
    known = masks != IGNORE_INDEX
    held = (known & (masks != data.spec.background)).flatten(1).any(dim=1).sum()
    say(
        f"{len(samples)} of {count} samples, {held} with foreground classes; {(~known).float().mean():.0%} "
        f"of all pixels are ignored. Written: {options.output}"
    )


def sections(sample: Mapping[str, Any], background: int | None, thickness: int) -> dict[str, Any]:
    """Return two sections of a patch ``(C, D, H, W)``, one above the other: a slice, and all slices along a row.

    Both are those with most pixels of classes, or the middle ones without any. The last slice is drawn uppermost, as
    most volumes are axial and sorted from inferior to superior.

    Args:
        sample: The patch.
        background: Class that does not count, if any.
        thickness: Distance of slices in pixels, as which they are drawn.
    """
    image, mask = sample["image"], sample["mask"]
    shown = (mask != background) & (mask != IGNORE_INDEX)
    places = []
    for counts in (shown.sum(dim=(1, 2)), shown.sum(dim=(0, 2))):
        places.append(int(counts.argmax()) if counts.any() else len(counts) // 2)
    slice_, row = places
    across = [part.flip(0).repeat_interleave(thickness, 0) for part in (image[:, :, row].swapaxes(0, 1), mask[:, row])]
    return {
        "image": torch.cat([image[:, slice_], across[0].swapaxes(0, 1)], dim=1),
        "mask": torch.cat([mask[slice_], across[1]]),
        "name": f"{sample['name']}\nslice {slice_} of {len(mask)}, and all slices at row {row}",
    }


def parse(argv: Sequence[str]) -> Namespace:
    """Parse the options; of config files the section ``data`` is used, and ``dims`` of ``model``."""
    parser = ArgumentParser(prog=f"{program()} preview", exit_on_error=False)
    parser.add_argument("--config", help="config file of fit; several are merged")
    parser.add_argument("--output", default="preview.png", help="PNG file to write")
    parser.add_argument("--samples", type=int, default=16, help="number of samples to draw")
    add_sections_of_fit(parser)
    options = parse_sections(parser, argv, ["data"], ["model"])
    if options.samples < 1:
        raise InputError(f"--samples must be 1 or more, got {options.samples}.")
    return options

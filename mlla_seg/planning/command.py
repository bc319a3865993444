"""The command plan: from a folder of images and masks to a card and a config that train on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mlla_seg.data.card import Card
from mlla_seg.data.card_sections import CardClass, CardNormalisation, Layout
from mlla_seg.data.card_splits import CardSplits
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.formats.bands import shown_channels
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.nnunet import nnunet_card
from mlla_seg.errors import InputError, program
from mlla_seg.evaluation.plots import plot_samples
from mlla_seg.planning.budget import LARGEST_BATCH, PIXELS, Budget, busy, duration, measure, pace, too_short
from mlla_seg.planning.choices import FRACTIONS, Choice, Plan, Section, choose
from mlla_seg.planning.naming import rename
from mlla_seg.planning.patches import config_of_volumes, has_volumes
from mlla_seg.planning.recognise import Recognised, recognise
from mlla_seg.planning.survey import survey
from mlla_seg.planning.table import listed_files, read_cohort, splits_of
from mlla_seg.planning.writing import write_yaml
from mlla_seg.progress import note, say
from mlla_seg.training.module import SegmentationModule

CARD, CONFIG, CONFIG3D, PREVIEW = "dataset.yaml", "config.yaml", "config3d.yaml", "preview.png"
SAMPLES = 16
AVERAGE = [{"class_path": "mlla_seg.training.ema.WarmEMA", "init_args": {"decay": 0.99}}]
"""Averaging of the weights, which short trainings gain from."""
ENCODERS = {"cpu": "mlla_micro", "cuda": "mlla_tiny"}
RATES = {"cpu": 2e-3, "cuda": 5e-4}
"""Learning rate by device; half of it for scenes and photos on CPUs."""


def plan(
    input: str,
    output: str,
    cohort: str | None = None,
    name: str | None = None,
    classes: list[str] | None = None,
    ignore: int | None = None,
    minutes: float = 30.0,
) -> None:
    """Write a card and a config for a folder of images and masks.

    Args:
        input: Folder of the data: nnU-Net raw or Decathlon, images and masks in two folders or side by side, arrays,
            DICOM series with masks, or GeoTIFF scenes.
        output: Folder for the card, the config and a picture of training samples.
        cohort: Table (CSV) with a row for each patient, case or pair of image and mask; columns with splits or folds
            are found, all others become subgroups of the report. A path, or a file in the folder of the data.
        name: Name of the data set; by default that of the folder.
        classes: Names of the classes in the order of the mask values; background may be left out.
        ignore: Mask value of pixels without a label, which are neither trained on nor scored.
        minutes: Time to train.
    """
    root, folder = Path(input), Path(output)
    if minutes <= 0:
        raise InputError(f"--minutes must be above zero, got {minutes:g}.")
    for file in (CARD, CONFIG, CONFIG3D):
        if (folder / file).exists():
            raise InputError(f"{folder / file}: already exists. Move it or choose another --output.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = read_cohort(Path(cohort), root) if cohort else None
    pairs: dict[str, Any] = listed_files(table, root) if table else {}
    seen = Recognised(f"pairs listed in {cohort}", {"format": "list"}) if pairs else recognise(root)
    say(f"{root}: {seen.what}")
    if seen.left_out:
        note(f"note: {len(seen.left_out)} files belong to no pair, such as {seen.left_out[0]}")
    called = re.sub(r"[^\w-]+", "_", name or root.absolute().name).strip("_").lower() or "data"
    known = nnunet_card(root) if seen.layout["format"] == "nnunet" else None
    splits = CardSplits(csv=str(table.path.absolute()), **{**pairs, **FRACTIONS}) if table and pairs else None
    cases = find_cases(known or provisional(called, seen, root, splits), root)
    found = survey(cases)
    chosen = choose(called, seen, found, device, ignore)
    if known:
        chosen = described(chosen, known)
    if classes:
        rename(chosen, classes)
    if table:
        chosen.card["splits"], unsure = splits_of(table, root, folder, cases)
        chosen.unsure.extend(unsure)
    labels = "polygons" if found.polygons else f"{found.masks} masks"
    read = f"{found.images} images and {labels} of {found.cases} cases"
    write_yaml(folder / CARD, f"Planned from {read} of {root}.", chosen.card)
    places = {"card": Choice(str(folder / CARD)), "root": Choice(str(root))}
    config = _config(called, {**places, **chosen.data}, found.is_flat, device, minutes)
    title = f"Planned for {root}: {seen.what}."
    try:
        data = _prepared(config.data)
    except InputError as error:
        write_yaml(folder / CONFIG, title, config.sections())
        raise InputError(
            f"{error}\n{folder / CARD} and {folder / CONFIG} are written, but nothing is measured. List all problems: "
            f"{program()} check --config {folder / CONFIG}"
        ) from error
    budget = _measured(_values(config.model), data, device)
    config.data["batch_size"] = Choice(budget.batch_size, budget.in_words)
    config.trainer.update(pace(budget, len(data.train_set), minutes))
    chosen.unsure.extend([*too_short(budget, len(data.train_set), minutes), *busy(budget, device)])
    _draw(data, folder / PREVIEW)
    write_yaml(folder / CONFIG, title, config.sections())
    written = [CARD, CONFIG]
    if not found.is_flat and has_volumes(data):
        volumes = config_of_volumes(config.sections(), data, _logger(f"{called}3d"), device, minutes)
        write_yaml(folder / CONFIG3D, title, volumes)
        written.append(CONFIG3D)
    _report(folder, [*written, PREVIEW], chosen.unsure)


@dataclass
class Config:
    """Sections of a config of ``fit``."""

    model: Section
    data: Section
    trainer: Section
    others: Section

    def sections(self) -> dict[str, Choice | Section]:
        """Return the content of the file."""
        return {**self.others, "model": self.model, "data": self.data, "trainer": self.trainer}


def _config(called: str, data: Section, is_flat: bool, device: str, minutes: float) -> Config:
    """Return the config for slices, scenes or photos, before batch and validations are measured."""
    model = {
        "encoder": Choice(ENCODERS[device]),
        "decoder": Choice("mlla_unet"),
        "lr": Choice(RATES[device] / (2 if is_flat and device == "cpu" else 1)),
    }
    trainer = {
        "max_time": Choice(duration(minutes), "the learning rate ends with the time"),
        "gradient_clip_val": Choice(1.0),
        "callbacks": Choice(AVERAGE),
        "logger": Choice(_logger(called)),
    }
    others = {"seed_everything": Choice(0)}
    if is_flat:
        others["distances"] = Choice(False, "no surface distances for maps and photos")
    return Config(model, data, trainer, others)


def _values(section: Section) -> dict[str, Any]:
    return {key: choice.value for key, choice in section.items()}


def _prepared(options: Section) -> SegmentationDataModule:
    """Return the data with its store filled, ready to train."""
    data = SegmentationDataModule(**_values(options))
    data.prepare_data()
    data.setup("fit")
    if not len(data.train_set):
        raise InputError(f"{data.root}: has no training sample; look at splits in {options['card'].value}.")
    return data


def provisional(name: str, seen: Recognised, root: Path, splits: CardSplits | None = None) -> Card:
    """Return a card that finds the cases; its classes and channels stand for any."""
    layout: Any = dict(seen.layout)
    return Card(
        name,
        title=name,
        modality="unknown",
        channels=("image",),
        classes=(CardClass("background", (0, 0, 0)), CardClass("class_1", (255, 255, 255))),
        normalisation=CardNormalisation(per_image=True),
        layout=Layout(**layout, tree=seen.what),
        splits=splits or CardSplits(seed=0),
        source="",
        licence="",
        folder=root,
        plane="acquired",
        use=("image", *layout.get("extra_channels", ())),
    )


def described(chosen: Plan, known: Card) -> Plan:
    """Return a plan with what ``dataset.json`` says in place of what was found."""
    told = "as dataset.json says"
    classes = [
        {"name": entry.name, "colour": list(entry.colour), "id": list(value) if isinstance(value, tuple) else value}
        for entry in known.classes
        for value in [entry.id]
    ]
    card: Section = {
        "title": Choice(known.title),
        "modality": Choice(known.modality),
        "channels": Choice(list(known.channels), told),
        "classes": Choice(classes, told),
        "background": Choice(known.background),
        "ignore_index": Choice(known.ignore_index, told),
        "normalisation": Choice({"schemes": known.normalisation.schemes}, "by the names of the channels, as nnU-Net"),
        "source": Choice(known.source),
        "licence": Choice(known.licence),
    }
    if known.regions:
        card["regions"] = Choice(
            {name: list(ids) if isinstance(ids, tuple) else ids for name, ids in known.regions.items()}, told
        )
        card["regions_class_order"] = Choice(list(known.regions_class_order or ()), told)
    unsure = [text for text in chosen.unsure if "rename" not in text and "name the" not in text]
    return Plan({**chosen.card, **card}, chosen.data, unsure)


def _measured(network: dict[str, Any], data: SegmentationDataModule, device: str) -> Budget:
    module = SegmentationModule(**network, spec=data.spec)
    sample = data.train_set[0, 0]["image"]
    most = PIXELS // (sample.shape[-1] * sample.shape[-2]) if device == "cpu" else LARGEST_BATCH
    largest = min(len(data.train_set), max(2, min(LARGEST_BATCH, most)))
    return measure(module, sample, largest, torch.device(device))


def _logger(name: str) -> dict[str, Any]:
    return {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": name}}


def _draw(data: SegmentationDataModule, path: Path) -> None:
    count = len(data.train_set)
    shown = min(SAMPLES, count)
    plot_samples(
        [data.train_set[0, k * count // shown] for k in range(shown)],
        shown=shown_channels(data.spec.channels, data.sample.context),
        classes=data.spec.classes,
        background=data.spec.background,
        output=path,
        title=f"{data.card.title}: training samples",
    )


def _report(folder: Path, written: Sequence[str], unsure: Sequence[str]) -> None:
    say(f"Written: {', '.join(str(folder / name) for name in written)}")
    if unsure:
        say("Not certain, please look:")
        say("\n".join(f"  - {text}" for text in unsure))
    say(f"Look at {folder / PREVIEW}, then train: {program()} fit --config {folder / CONFIG}")
    if CONFIG3D in written:
        say(f"To see volumes as volumes instead of slices: {program()} fit --config {folder / CONFIG3D}")

"""Every option of the data module, given on the real command line and read back from the object that uses it.

``READERS`` has an entry for each: an unusual value, and its observable effect while ``cli fit`` trains. A new option
without an entry fails.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from conftest import TINY, run_main
from mlla_seg import SegmentationDataModule
from recorder import Recorder

OPTIONS = list(signature(SegmentationDataModule).parameters)
CARD = """name: mine
title: Mine
modality: MR
channels: [first, second]
classes: [{name: background, colour: [0, 0, 0]}, {name: a, colour: [9, 0, 0]}]
normalisation: {per_image: true}
layout:
  format: files
  patterns: ['images/(?P<case>.+)[.]nii']
  mask: 'masks/{case}.nii'
  test_mask: 'without_boundaries/{case}.nii'
  tree: images masks without_boundaries
splits: {seed: 0, val: 0.1, test: 0.3}
scribbles: {mask: 'strokes/{case}.nii', unlabelled: 4}
source: nowhere
licence: none
"""


def sample(data: Any) -> dict[str, Any]:
    return data.train_set[0, 0]


def steps(data: Any) -> list[str]:
    return [type(step[0]).__name__ for step in data.train_set.augment.steps]


READERS: dict[str, tuple[Any, Callable[[Any], Any], Any]] = {
    "card": ("mine.yaml", lambda data: data.card.name, "mine"),
    "root": ("there", lambda data: {case.images[0][0].parts[0] for case in data.splits.train}, {"there"}),
    "unlabelled": ("more", lambda data: data.pairs[0, 0]["unlabelled"]["name"], "new"),
    "batch_size": (3, lambda data: len(next(iter(data.train_dataloader()))["mask"]), 3),
    "resize": (1.5, lambda data: data.train_set.grids[0][1:], (9, 36)),  # coronal slices of 6 x 24
    "spacing_mm": ([2.0, None, "median"], lambda data: data.train_set.grids[0][0], 10),  # of 20
    "crop": ([24, 24], lambda data: tuple(sample(data)["mask"].shape), (24, 24)),
    "dims": (2, lambda data: data.spec.axes, 2),
    "context": (1, lambda data: len(sample(data)["image"]), 3),
    "channels": (["second"], lambda data: data.train_set.cases[0].image().min(), 100),
    "plane": ("coronal", lambda data: data.train_set.cases[0].shape, (20, 1, 6, 24)),
    "patient": ("(?<=p).", lambda data: {len(case.patient) for case in data.splits.train}, {1}),
    "augment": ("transunet", lambda data: steps(data)[0], "OneOf"),
    "intensity": (0.7, lambda data: data.train_set.augment.intensity, 0.7),
    "mirror": (["rows"], lambda data: steps(data)[1], "VerticalFlip"),
    "elastic": (1.5, lambda data: steps(data)[2], "ElasticTransform"),
    "balance": (0.3, lambda data: data.train_set.balance, 0.3),
    "full_labels": (True, lambda data: {case.tested().masks[0].parts[1] for case in data.splits.test}, {"masks"}),
    "scribbles": (True, lambda data: {case.masks[0].parts[1] for case in data.splits.train}, {"strokes"}),
    "num_workers": (1, lambda data: data.train_dataloader().num_workers, 1),
    "splits": ({"seed": 3, "test": 0.3}, lambda data: data.card.splits.seed, 3),
    "exclude": ({"p1": "blurred"}, lambda data: data.splits.excluded, {"p1": "blurred"}),
    "fold": (1, lambda data: [case.name for case in data.splits.val] == folds_of(data, 3)[1], True),
    "folds": (3, lambda data: len(data.splits.train) / len(data.splits.val), 2),
    "cache_dir": ("elsewhere", lambda data: data.train_set.cases[0].stem.parts[0], "elsewhere"),
    "verify": (True, lambda data: data.verify, True),
    "seed": (5, lambda data: (data.train_set.seed, data.train_dataloader().sampler.seed), (5, 5)),
}


def folds_of(data: Any, count: int) -> list[list[str]]:
    """Validation cases of each fold."""
    how = {name: value for name, (value, *_) in READERS.items()}
    modules = [SegmentationDataModule(**{**how, "fold": k, "folds": count}) for k in range(count)]
    return [[case.name for case in module.splits.val] for module in modules]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data module of a run in which every option has an unusual value."""
    folder, before = tmp_path_factory.mktemp("options"), Path.cwd()
    os.chdir(folder)
    Path("mine.yaml").write_text(CARD)
    rng = np.random.default_rng(0)
    for name in ("images", "masks", "without_boundaries", "strokes"):
        Path("there", name).mkdir(parents=True)
    for n in range(9):
        mask = (rng.random((24, 20, 6)) > 0.6).astype(np.uint8)
        image = np.stack([mask * 10, mask * 10 + 100], axis=-1).astype(np.int16)
        for place, array in (("images", image), ("masks", mask), ("without_boundaries", mask), ("strokes", mask)):
            nib.Nifti1Image(array, np.diag([1.0, 1.0, 4.0, 1.0])).to_filename(f"there/{place}/p{n}.nii")
    Path("more").mkdir()
    nib.Nifti1Image(image + np.int16(1), np.diag([1.0, 1.0, 4.0, 1.0])).to_filename("more/new.nii")  # no copy
    given = [f"--data.{name}={json.dumps(value).strip(chr(34))}" for name, (value, *_) in READERS.items()]
    tiny = [option for option in TINY if "--data" not in option]
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    run_main("fit", *tiny, *short, *given, "--trainer.callbacks=[{class_path: recorder.Recorder}]")
    yield Recorder.module.trainer.datamodule
    os.chdir(before)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_obeyed(data, option):
    value, read, expected = READERS[option]
    assert value != signature(SegmentationDataModule).parameters[option].default
    assert read(data) == expected

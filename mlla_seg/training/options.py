"""Suggestions for mistyped options of training."""

from __future__ import annotations

from difflib import get_close_matches
from inspect import signature

from lightning.pytorch import Trainer

from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.training.module import SegmentationModule
from mlla_seg.training.scoring import Scoring

SECTIONS = {"data": SegmentationDataModule, "model": SegmentationModule, "trainer": Trainer}
CUTOFF = 0.75
"""Likeness of names, from 0 to 1, above which one is suggested."""


def similar_options(option: str) -> list[str]:
    """Return up to two options whose names resemble ``data.batchsize`` or, without its section, ``batchsize``."""
    own = ["config", "ckpt_path", "seed_everything", *signature(Scoring).parameters]
    known = [*own, *(f"{section}.{name}" for section, kind in SECTIONS.items() for name in signature(kind).parameters)]
    if near := get_close_matches(option, known, n=1, cutoff=CUTOFF):
        return near
    last = {name.rpartition(".")[2]: name for name in reversed(known)}
    word = option.rpartition(".")[2]
    return [last[name] for name in ([word] if word in last else get_close_matches(word, last, n=2, cutoff=CUTOFF))]

"""Small valid cards, configs, lists, tables and specs, for mutations.py."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from mutation_kind import Kind, text_kind, write_text
from mutation_networks import SPEC

from mlla_seg.data.card import load_card
from mlla_seg.data.cases import Case
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.folds import fold_cases
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.nnunet import nnunet_card
from mlla_seg.data.shipped import read_config, shipped
from mlla_seg.errors import InputError
from mlla_seg.inference.files import find_images


def read_spec(path: Path) -> None:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # as those that find a spec in another file
        raise InputError("no JSON") from error
    DataSpec.from_dict(content)


def fold_of(path: Path) -> None:
    cases = [Case(f"case_{k}", f"case_{k}", ((path,),)) for k in range(4)]
    fold_cases(load_card("hippocampus"), cases, path.parent, 0, 5)


def table_kind(name: str, layout: dict[str, object], rows: list[str], **splits: object) -> Kind:
    """Return a table that a card names, of images in ``images`` and masks in ``masks``."""

    def write(folder: Path) -> None:
        content = {**yaml.safe_load(CARD), "splits": {"csv": "cohort.csv", **splits}}
        write_text({**content, "layout": layout or content["layout"]})(folder / "dataset.yaml")
        for kind in ("images", "masks"):
            (folder / kind).mkdir()
            for k in range(4):
                (folder / f"{kind}/case_{k}.png").touch()
        write_text("\n".join(rows))(folder / "cohort.csv")

    return Kind(name, "cohort.csv", write, lambda folder: find_cases(load_card(folder / "dataset.yaml"), folder))


DATASET = {
    **{"name": "Liver", "channel_names": {"0": "CT", "1": "T1"}, "labels": {"background": 0, "liver": 1, "ignore": 2}},
    **{"numTraining": 3, "file_ending": ".nii.gz", "regions_class_order": [1]},
}
FOLDS = [{"train": ["case_0", "case_1"], "val": ["case_2"]}, {"train": ["case_2"], "val": ["case_0"]}]
CARD = (shipped("datasets") / "image_folder" / "dataset.yaml").read_text()
CONFIG = (shipped("configs") / "demo.yaml").read_text()
COHORT = ["case;patient;split;fold;age"] + [
    f"case_{k};P{k};{'test' if k == 3 else 'train'};{k};{50 + k}" for k in range(4)
]
FILES = ["image,mask,id,fold,scanner"] + [f'images/case_{k}.png,masks/case_{k}.png,P{k},{k},"A, {k}"' for k in range(4)]

TEXTS = (
    text_kind("card", "dataset.yaml", CARD, load_card),
    text_kind("config", "config.yaml", CONFIG, lambda path: read_config(str(path))),
    text_kind("dataset.json", "dataset.json", DATASET, lambda path: nnunet_card(path.parent)),
    text_kind("folds", "splits_final.json", FOLDS, fold_of),
    text_kind("list", "list.txt", "list.txt\n./list.txt, list.txt\n", lambda path: find_images(path, 2)),
    table_kind("cohort", {}, COHORT, case="case", patient="patient", split="split", fold="fold"),
    table_kind("table of files", {"format": "list", "tree": "images"}, FILES, image="image", mask="mask", fold="fold"),
    text_kind("spec", "spec.json", SPEC, read_spec),
)

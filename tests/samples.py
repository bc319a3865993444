"""Helpers that write test files: modified cards, NIfTI volumes, arrays."""

from __future__ import annotations

import math
import shutil

import h5py
import nibabel as nib
import numpy as np
import yaml

from mlla_seg.data.card import find_card
from mlla_seg.data.formats.classes import ClassInfo, class_colour
from mlla_seg.evaluation import tables


def write_card(folder, base, **changes):
    """Write a shipped card with changed keys and return its path; a value of ``...`` removes the key."""
    source = find_card(base)
    shutil.copytree(source.parent, folder)
    content = {**yaml.safe_load(source.read_text()), **changes}
    kept = {key: value for key, value in content.items() if value is not ...}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    return folder / "dataset.yaml"


def classes_of(names, colours=None, ids=None):
    """Classes with these names, by default with arbitrary colours and ids from 0."""
    names = [str(name) for name in names]
    colours = [class_colour(k) for k in range(len(names))] if colours is None else map(tuple, colours)
    return [ClassInfo(*entry) for entry in zip(names, colours, ids or range(len(names)), strict=True)]


def write_nifti(path, array, affine=None):
    """Write an array as NIfTI; the default affine is 1 mm along R, A, S."""
    nib.Nifti1Image(array, np.eye(4) if affine is None else affine).to_filename(path)
    return path


def write_array(path, **arrays):
    """Write arrays as npz or h5, by the suffix."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                file[key] = array
    return path


def write_scored(folder, scores, metric="dice", counts=None, single=False, patients=None, **changes):
    """Write a folder as ``validate`` leaves it: scores ``{case: {class: value}}``, NaN where a class is absent."""
    rows = []
    for case, values in scores.items():
        for name, value in {"background": 1.0, **values}.items():
            tp, fp, fn = (counts or {}).get((case, name), (0, 0, 0) if math.isnan(value) else (10, 5, 5))
            row = {"case": case, "patient": (patients or {}).get(case, case), "class": name, metric: value}
            rows.append({**row, "tp": tp, "fp": fp, "fn": fn})
    tables.write_csv(folder / "per_case.csv", rows)
    about = {"card": "x", "split": "val", "background": "background", "masks": "labels", "fold": None, "unit": None}
    about |= {"test-time augmentation": False, "checkpoint": f"{folder}/last.ckpt", "protocols": {"native": "..."}}
    about |= {"pooled": {"boundary_iou": 0.5} if single else {}}
    tables.write_json(folder / "summary.json", {**about, **changes})
    return folder

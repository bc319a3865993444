"""Files that the data tests write: a shipped card with changes, NIfTI volumes, arrays."""

from __future__ import annotations

import shutil

import h5py
import nibabel as nib
import numpy as np
import yaml

from mlla_seg.data.card_file import find_card
from mlla_seg.data.formats.classes import ClassInfo, class_colour


def write_card(folder, base, **changes):
    """Writes a shipped card with changed keys and returns its path; ``...`` as a value leaves the key out."""
    source = find_card(base)
    shutil.copytree(source.parent, folder)
    content = {**yaml.safe_load(source.read_text()), **changes}
    kept = {key: value for key, value in content.items() if value is not ...}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(kept))
    return folder / "dataset.yaml"


def classes_of(names, colours=None, ids=None):
    """Classes with these names; where nothing else is said with made-up colours, and ids from 0."""
    names = [str(name) for name in names]
    colours = [class_colour(k) for k in range(len(names))] if colours is None else map(tuple, colours)
    return [ClassInfo(*entry) for entry in zip(names, colours, ids or range(len(names)), strict=True)]


def write_nifti(path, array, affine=None):
    """Writes an array as NIfTI, in millimetres along R, A, S where no affine is given."""
    nib.Nifti1Image(array, np.eye(4) if affine is None else affine).to_filename(path)
    return path


def write_array(path, **arrays):
    """Writes arrays as npz or h5, as the suffix says."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                file[key] = array
    return path

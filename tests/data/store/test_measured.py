"""Sizes of the classes in the store, by which masks with another numbering than the card's are noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import layouts
from mlla_seg.data.card import load_card
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.store.measured import check_class_sizes
from mlla_seg.data.store.opening import open_store
from mlla_seg.data.synthetic import ORGANS, phantom_volume
from mlla_seg.errors import InputError
from samples import write_array

HIPPOCAMPUS = load_card("hippocampus")
SYNAPSE = load_card("synapse")
# Ids of the raw BTCV labels (see the Synapse card for those of the TransUNet files).
BTCV = {
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "gallbladder": 4,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "pancreas": 11,
}


def build(root, card=SYNAPSE):
    """Open the store beside the data."""
    return open_store(card, find_cases(card, root), root, root.parent / "store")


def write_renumbered(root, ids):
    """Write phantoms in the Synapse layout whose organs have other ids."""
    (root / "test_vol_h5").mkdir(parents=True)
    for number in (1, 2):
        image, label = phantom_volume(slices=8, size=48, seed=number)
        table = np.array([0, *(ids[name] for name in ORGANS)])
        write_array(root / f"test_vol_h5/case{number:04d}.npy.h5", image=(image + 125) / 400, label=table[label])


def test_ids_of_the_card_are_accepted(tmp_path):
    write_renumbered(tmp_path / "data", {name: k for k, name in enumerate(ORGANS, start=1)})
    check_class_sizes(SYNAPSE, build(tmp_path / "data"))


def test_ids_of_raw_btcv_are_refused_by_their_values(tmp_path):
    write_renumbered(tmp_path / "data", BTCV)
    with pytest.raises(InputError, match="mask value 11"):
        build(tmp_path / "data")


def test_ids_in_the_order_of_btcv_are_refused(tmp_path):
    write_renumbered(tmp_path / "data", {**BTCV, "pancreas": 0})  # its ids end at 8 where the pancreas was left out
    stored = build(tmp_path / "data")
    with pytest.raises(InputError, match="the masks number the classes in another order"):
        check_class_sizes(SYNAPSE, stored)


def test_ids_of_btcv_closed_up_are_noticed_though_the_liver_is_in_its_place(tmp_path, capsys):
    write_renumbered(tmp_path / "data", {name: k for k, name in enumerate(BTCV, start=1)})
    check_class_sizes(SYNAPSE, build(tmp_path / "data"))
    assert ", expected gallbladder. Check that the masks" in capsys.readouterr().err


def test_largest_class_is_checked_only_where_the_card_names_it(tmp_path):
    layouts.hippocampus(tmp_path / "data", cases=3)
    stored = build(tmp_path / "data", HIPPOCAMPUS)
    check_class_sizes(HIPPOCAMPUS, stored)
    by_size = np.argsort([sum(case.voxels[k] for case in stored) for k in (1, 2)])
    smaller, larger = (("anterior", "posterior")[k] for k in by_size)
    check_class_sizes(replace(HIPPOCAMPUS, largest_class=larger), stored)
    with pytest.raises(InputError, match="the largest class is posterior, expected anterior"):
        check_class_sizes(replace(HIPPOCAMPUS, largest_class=smaller), stored)
    check_class_sizes(replace(HIPPOCAMPUS, largest_class=smaller), [])

"""Checkpoints know their training patients without naming them."""

from __future__ import annotations

import re

import torch

from mlla_seg.data.pseudonyms import known_patients, pseudonyms

NAMES = ["Erika Mustermann", "PAT02", "PAT02", "\udcff1"]


def test_patients_are_known_again_and_not_named():
    saved = pseudonyms(NAMES)
    assert known_patients(["PAT02", "PAT03", "Erika Mustermann", "\udcff1"], saved) == [
        "Erika Mustermann",
        "PAT02",
        "\udcff1",
    ]
    assert known_patients(["PAT2", "pat02"], saved) == []
    assert len(saved["patients"]) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", entry) for entry in [*saved["patients"], saved["salt"]])


def test_two_checkpoints_cannot_be_compared():
    assert not set(pseudonyms(NAMES)["patients"]) & set(pseudonyms(NAMES)["patients"])


def test_names_of_older_checkpoints_are_known():
    assert known_patients(["PAT02", "PAT03"], {"patients": ["PAT02"]}) == ["PAT02"]
    assert known_patients(["PAT02"], {}) == []


def test_a_checkpoint_has_no_name_of_a_patient(checkpoint):
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    saved = content["SegmentationDataModule"]
    assert len(saved["patients"]) > 1
    assert known_patients(["0001", "case0001"], saved)
    assert "case0001" not in str({key: value for key, value in content.items() if key != "state_dict"})

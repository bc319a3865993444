"""Images that are held out: recognised before a pretraining, and said where weights have seen them all the same."""

from __future__ import annotations

import torch

from mlla_seg.data.cases import Case
from mlla_seg.data.held_out import Held
from mlla_seg.data.pseudonyms import pseudonyms
from mlla_seg.models.checkpoint import CHECKPOINT_KEY
from mlla_seg.training.starting import note_seen


def case(path, name, patient=None):
    path.write_bytes(name.encode())
    return Case(name, patient or name, images=((path,),))


def test_copies_links_names_and_patients_are_recognised(tmp_path):
    known = case(tmp_path / "a.png", "p1_visit1", "p1")
    held = Held([known])
    copy, other = tmp_path / "b.png", tmp_path / "c.png"
    copy.write_bytes(known.images[0][0].read_bytes())
    other.write_bytes(known.images[0][0].read_bytes()[::-1])  # of the same size
    assert held.holds(Case("new", "new", images=((copy,),)))
    assert held.holds(Case("p1_visit1", "new", images=((other,),)))
    assert held.holds(Case("p1_visit2", "p1", images=((other,),)))
    assert not held.holds(Case("p2", "p2", images=((other,),)))


def test_fit_says_which_patients_of_validation_and_test_its_weights_have_seen(tmp_path, capsys):
    path = tmp_path / "last.ckpt"
    torch.save({CHECKPOINT_KEY: "0.2", "ImagesDataModule": {"fold": None, **pseudonyms(["p1", "p2"])}}, path)
    note_seen(str(path), [Case("p2_a", "p2", ()), Case("p3", "p3", ())])
    said = capsys.readouterr().err
    assert f"note: {path} was trained on images of 1 patients of validation and test, such as p2, so" in said
    note_seen(str(path), [Case("p3", "p3", ())])
    torch.save({"state_dict": {}}, path)
    note_seen(str(path), [Case("p2", "p2", ())])
    assert not capsys.readouterr().err

"""Training cases labelled by scribbles: which arrays and files they come from, and what is scored with masks."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import yaml

from layouts import acdc_ssl4mis, hippocampus
from mlla_seg import SegmentationDataModule
from mlla_seg.data.card import find_card
from mlla_seg.data.formats.classes import IGNORE_INDEX
from mlla_seg.errors import InputError
from samples import write_card, write_nifti

LAYOUT = {
    "format": "files",
    "patterns": [r"(?P<split>train|val)/images/(?P<case>.+)[.]nii"],
    "mask": "{split}/masks/{case}.nii",
    "tree": "train val",
}


def module(tmp_path, card, **options):
    given = {"root": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache"), "batch_size": 2, "crop": [16, 16]}
    return SegmentationDataModule(card=str(card), **{**given, "num_workers": 0, "scribbles": True, **options})


def values(case):
    return set(np.unique(case.mask()).tolist())


def test_the_array_of_the_card_labels_training_cases_and_masks_score_the_others(tmp_path, capsys):
    acdc_ssl4mis(tmp_path / "data")
    data = module(tmp_path, "acdc", balance=True)
    data.prepare_data()
    masks = module(tmp_path, "acdc", scribbles=False).by_split
    for stored, full in zip(data.by_split["train"], masks["train"], strict=True):
        strokes, mask = stored.mask(), full.mask()
        np.testing.assert_array_equal(strokes[..., 2::5], mask[..., 2::5])
        assert (np.delete(strokes, np.s_[2::5], axis=2) == IGNORE_INDEX).all()
        assert (stored.places()[:, 3] % 5 == 2).all()  # balanced samples are drawn around strokes
    assert [case.stem for case in data.by_split["val"]] == [case.stem for case in masks["val"]]
    assert IGNORE_INDEX not in values(data.by_split["test"][0])
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))["mask"]
    assert 0 < (batch != IGNORE_INDEX).float().mean() < 0.5
    said = capsys.readouterr().err
    assert "note: the 3 training cases of acdc, such as patient003_frame01, are labelled by scribbles: 2,592 p" in said
    assert "(20.00%); all others (value 4) count in no loss. Validation and test are scored with the masks." in said


def test_arrays_without_scribbles_and_cards_without_them_are_refused(tmp_path):
    acdc_ssl4mis(tmp_path / "data")
    where = {"key": "strokes", "unlabelled": 4}
    with pytest.raises(InputError, match="no array named strokes, found image, label, scribble"):
        module(tmp_path, write_card(tmp_path / "card", "acdc", scribbles=where)).prepare_data()
    with pytest.raises(InputError, match=r"--data.scribbles: the card acdc does not say where scribbles are"):
        module(tmp_path, write_card(tmp_path / "other", "acdc", scribbles=...))
    hippocampus(tmp_path / "nifti")
    other = module(
        tmp_path, write_card(tmp_path / "third", "hippocampus", scribbles=where), root=str(tmp_path / "nifti")
    )
    with pytest.raises(InputError, match="only h5 and npz files have arrays with names, such as strokes"):
        other.prepare_data()


def folders(tmp_path):
    """Images with masks, with scribbles of other values, or with either."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks", "strokes"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
    for split, name, kinds in (
        ("train", "both", ("masks", "strokes")),
        ("train", "mask_only", ("masks",)),
        ("train", "strokes_only", ("strokes",)),
        ("val", "scored", ("masks", "strokes")),
        ("val", "unscored", ("strokes",)),
    ):
        place = tmp_path / "data" / split
        mask = (rng.random((20, 20, 4)) > 0.5).astype(np.uint8)
        write_nifti(place / "images" / f"{name}.nii", mask.astype(np.float32))
        strokes = np.zeros_like(mask)
        strokes[:, ::4] = np.where(mask[:, ::4] == 1, 1, 7)
        for kind in kinds:
            write_nifti(place / kind / f"{name}.nii", mask if kind == "masks" else strokes)
    classes = [{"name": "background", "colour": [0, 0, 0]}, {"name": "organ", "colour": [9, 0, 0]}]
    scribbles = {"mask": "{split}/strokes/{case}.nii", "unlabelled": 0, "ids": {"background": 7}}
    keys = {"largest_class": ..., "smallest_class": ..., "spacing_mm": ..., "scribbles": scribbles}
    return write_card(tmp_path / "card", "hippocampus", layout=LAYOUT, classes=classes, **keys)


def test_files_of_scribbles_have_their_own_values_and_cases_without_any_are_left_out(tmp_path, capsys):
    data = module(tmp_path, folders(tmp_path))
    data.prepare_data()
    by_split = data.by_split
    assert [case.name for case in by_split["train"]] == ["both", "strokes_only"]
    assert [case.name for case in by_split["val"]] == ["scored"]
    strokes = by_split["train"][0].mask()
    mask = nib.load(tmp_path / "data/train/masks/both.nii").get_fdata()
    assert (strokes != IGNORE_INDEX).mean() == 0.25
    assert set(np.unique(strokes)) == {0, 1, IGNORE_INDEX}
    assert (strokes == 1).sum() == mask[:, ::4].sum()
    assert values(by_split["val"][0]) == {0, 1}
    said = capsys.readouterr().err
    assert "note: 1 of 3 cases of split train of hippocampus, such as mask_only, have no scribbles and are left" in said
    assert "note: 1 of 2 cases of split val of hippocampus, such as unscored, have scribbles but no mask to be" in said


def test_without_the_option_scribbles_are_not_looked_at(tmp_path, capsys):
    data = module(tmp_path, folders(tmp_path), scribbles=False)
    assert [case.name for case in data.by_split["train"]] == ["both", "mask_only"]
    assert "strokes_only" in capsys.readouterr().err


def test_a_second_folder_of_an_nnunet_folder_is_found_by_the_name_of_the_case(tmp_path):
    hippocampus(tmp_path / "data")
    where = {"mask": "scribblesTr/{case}.nii.gz", "unlabelled": 9}
    card = write_card(tmp_path / "card", "hippocampus", scribbles=where)
    with pytest.raises(InputError, match=r"none of the \d training cases, such as hippocampus_.*, has scribbles at"):
        _ = module(tmp_path, card).splits
    (tmp_path / "data/scribblesTr").mkdir()
    for path in (tmp_path / "data/labelsTr").iterdir():
        label = np.asanyarray(nib.load(path).dataobj)
        write_nifti(tmp_path / "data/scribblesTr" / path.name, np.where(np.arange(20) % 4, 9, label.T).T)
    data = module(tmp_path, card)
    assert {path.parent.name for case in data.splits.train for path in case.masks} == {"scribblesTr"}
    assert {path.parent.name for case in data.splits.val for path in case.masks} == {"labelsTr"}
    assert all(IGNORE_INDEX in values(case) for case in data.by_split["train"])
    outside = {"mask": "../{case}.nii.gz", "unlabelled": 9}
    with pytest.raises(InputError, match=r"leads to \.\./hippocampus_000.nii.gz, outside"):
        _ = module(tmp_path, write_card(tmp_path / "out", "hippocampus", scribbles=outside)).found
    unknown = {"mask": "{patient}.nii.gz", "unlabelled": 9}
    with pytest.raises(InputError, match=r"uses \['patient'\]; with format nnunet there is only case"):
        _ = module(tmp_path, write_card(tmp_path / "unknown", "hippocampus", scribbles=unknown)).found


def test_scribbles_alone_are_masks_with_a_key(tmp_path):
    acdc_ssl4mis(tmp_path / "data")
    layout = {**yaml.safe_load(find_card("acdc").read_text())["layout"], "mask_key": "scribble"}
    card = write_card(tmp_path / "card", "acdc", layout=layout, ignore_index=4, scribbles=...)
    data = module(tmp_path, card, scribbles=False)
    assert all(IGNORE_INDEX in values(case) for cases in data.by_split.values() for case in cases)

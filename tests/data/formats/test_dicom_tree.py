"""DICOM series in trees of patients, studies and series."""

from __future__ import annotations

import shutil

import pydicom
import pytest
from pydicom.uid import UID

from dicom_samples import dicom_series
from jobs import Pixelwise, spec_of
from mlla_seg import Predictor
from mlla_seg.data.formats.dicom_tree import find_series
from mlla_seg.data.image_files import find_images
from mlla_seg.errors import InputError
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.scenes import MapOptions


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    for name in ("anna/study1/ct", "anna/study2/ct", "otto/study1/ct", "otto/study1/scout", ".trash/ct"):
        dicom_series(root / name, description=name.split("/")[-1])
    dose = root / "otto/study1/rt/dose.dcm"
    dose.parent.mkdir()
    data = pydicom.dcmread(next((root / "otto/study1/ct").iterdir()))
    data.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.481.2")
    data.save_as(dose)
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + dose.read_bytes()[132:])
    return root


def test_every_series_of_a_tree_has_a_mask_in_the_same_place(tree, tmp_path, capsys):
    shutil.copytree(tree / "anna/study1/ct", tmp_path / "linked")
    (tree / "linked").symlink_to(tmp_path / "linked")
    (tree / "anna/again").symlink_to(tree / "anna")
    segment_files(Predictor(Pixelwise(), spec_of()), tree, tmp_path / "out", MapOptions())
    masks = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.nii.gz")}
    assert masks == {
        *("anna/study1/ct.nii.gz", "anna/study2/ct.nii.gz", "otto/study1/ct.nii.gz"),
        "linked.nii.gz",
    }
    said = capsys.readouterr().err
    assert "left out 1 localiser, such as otto/study1/scout" in said
    assert "left out 2 DICOM files that are no images, such as DICOMDIR" in said


def test_localisers_are_images_where_there_is_nothing_else(tree):
    assert find_series(tree / "otto/study1/scout") == ([tree / "otto/study1/scout"], [])


def test_a_damaged_series_stops_no_other(tree, tmp_path):
    next((tree / "anna/study1/ct").iterdir()).write_bytes(b"")
    for path in (tree / "anna/study2/ct").iterdir():
        path.rename(path.with_suffix(".dcm"))
    for path in (tree / "anna/study2/ct").iterdir():
        path.write_bytes(b"")  # a series without a single readable file is one all the same
    with pytest.raises(InputError, match=r"(?s)2 of 3 images have no mask.*study1/ct/.*study2/ct/"):
        segment_files(Predictor(Pixelwise(), spec_of()), tree, tmp_path / "out", MapOptions())
    assert (tmp_path / "out/otto/study1/ct.nii.gz").exists()


def test_series_beside_files_in_the_folder_itself_are_all_found(tree, capsys):
    for path in (tree / "anna/study1/ct").iterdir():
        shutil.copy(path, tree)
    found = [files[0] for files in find_images(tree, 1)]
    assert found[0] == tree and len(found) == 4


def test_numbered_series_are_channels_only_within_their_folder(tmp_path):
    for name in ("a/mr_0000", "a/mr_0001", "b/mr_0000", "c/mr_0001"):
        dicom_series(tmp_path / name)
    found = [[path.relative_to(tmp_path).as_posix() for path in files] for files in find_images(tmp_path, 2)]
    assert found == [["a/mr_0000", "a/mr_0001"], ["b/mr_0000"], ["c/mr_0001"]]

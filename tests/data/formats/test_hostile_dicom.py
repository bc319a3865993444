"""DICOM files that were made to harm: deflated bombs, and directories that name files elsewhere."""

from __future__ import annotations

import shutil

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from dicom_samples import dicom_series
from mlla_seg.data.formats import dicom_files
from mlla_seg.data.formats.registry import read_image
from mlla_seg.errors import InputError


def deflate(path, padding=0):
    """Save a slice deflated, with a private element of zeros in front of its pixels."""
    data = dcmread(path)
    if padding:
        data.add_new(0x00090010, "LO", "x")
        data.add_new(0x00091001, "OB", bytes(padding))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(path)


@pytest.fixture
def series(tmp_path):
    return dicom_series(tmp_path / "series")


def test_deflated_slices_are_read(series):
    expected = read_image(series).array
    for path in series.iterdir():
        deflate(path)
    assert (read_image(series).array == expected).all()


def test_a_deflated_bomb_is_not_inflated(series, monkeypatch):
    monkeypatch.setattr(dicom_files, "LARGEST_INFLATED", 2**24)
    path = sorted(series.iterdir())[0]
    deflate(path, padding=2**25)
    assert path.stat().st_size < 2**16
    with pytest.raises(InputError, match=rf"{path.name}: is deflated, and would fill more than 0\.0 GB of memory"):
        read_image(series)


@pytest.mark.parametrize("cut", [150, 300, 400])
def test_damaged_deflated_slices_are_named(series, cut):
    path = sorted(series.iterdir())[0]
    deflate(path)
    content = path.read_bytes()
    path.write_bytes(content[:cut] + bytes(50) + content[cut + 50 :])
    with pytest.raises(InputError, match=path.name) as caught:
        read_image(series)
    assert len(str(caught.value).splitlines()) == 1


def test_a_directory_of_files_elsewhere_is_not_followed(series):
    """Files of a DICOMDIR are found in the folder, not through it."""
    expected = read_image(series).array
    shutil.copytree(series, series / "ELSEWHERE")
    record = Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["ELSEWHERE", "00"]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = MediaStorageDirectoryStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.DirectoryRecordSequence = [record]
    data.save_as(series / "DICOMDIR", enforce_file_format=True)
    picture = read_image(series)
    assert picture.array.shape == expected.shape
    assert (picture.array == expected).all()

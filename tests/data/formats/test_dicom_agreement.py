"""Slices that are not of one image, and series that may lack slices, are told."""

from __future__ import annotations

import pydicom
import pytest
from pydicom.uid import SegmentationStorage, generate_uid

from dicom_samples import dicom_series
from mlla_seg.data.formats.registry import read_image, read_mask
from mlla_seg.errors import InputError
from mlla_seg.planning.recognise import recognise


@pytest.fixture
def series(tmp_path):
    return dicom_series(tmp_path / "ct")


def changed(folder, number=None, **tags):
    """Change tags of one slice, or of all; a value of ``...`` removes the tag."""
    for path in sorted(folder.iterdir()):
        data = pydicom.dcmread(path)
        if number is not None and data.InstanceNumber != number:
            continue
        for keyword, value in tags.items():
            if value is ...:
                delattr(data, keyword)
            else:
                setattr(data, keyword, value)
        data.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"RescaleIntercept": ...}, "has no RescaleIntercept, which 5 of the 6 slices .* another unit"),
        ({"RescaleSlope": ""}, "has no RescaleSlope, which 5 of the 6 slices"),
        (
            {"PhotometricInterpretation": "MONOCHROME1"},
            "its Photometric.* is MONOCHROME1, but MONOCHROME2 in most",
        ),
        ({"Modality": "MR"}, "its Modality is MR, but CT in most slices"),
        ({"PatientID": "2"}, "is of another patient than 5 of the 6 slices of its series, by PatientID"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "its SamplesPerPixel is 3, but 1 in most"),
    ],
)
def test_a_slice_of_another_image_is_named(series, number, tags, said):
    changed(series, number, **tags)
    name = next(path.name for path in series.iterdir() if number_of(path) == number)
    with pytest.raises(InputError, match=rf"/{name}: {said}"):
        read_image(series)


def number_of(path):
    return int(pydicom.dcmread(path).InstanceNumber)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (
            (2, 3, 4, 5, 6),
            "1 of the numbers 1 to 6 (InstanceNumber) have no slice, such as 1",
        ),
        ((1, 3, 5), "2 of the numbers 1 to 5 (InstanceNumber) have no slice, such as 2"),
        ((1, 2, 3), "3 of 6 images (ImagesInAcquisition) are there"),
    ],
)
def test_slices_missing_where_positions_show_no_gap_are_told(series, kept, said):
    changed(series, ImagesInAcquisition=6)
    assert read_image(series).notes == ()
    for path in [path for path in series.iterdir() if number_of(path) not in kept]:
        path.unlink()
    assert read_image(series).notes == (f"{said}; the series may be incomplete",)


def test_numbers_of_a_larger_count_and_several_frames_of_reference(series):
    for path in [*series.iterdir()]:
        changed_file = pydicom.dcmread(path)
        changed_file.InstanceNumber += 1000
        changed_file.FrameOfReferenceUID = generate_uid()
        changed_file.save_as(path, enforce_file_format=True)
    (note,) = read_image(series).notes
    assert "several frames of reference" in note


def test_segmentations_and_single_files_are_told_what_to_do(series, tmp_path):
    first = min(series.iterdir())
    data = pydicom.dcmread(first)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    (tmp_path / "seg").mkdir()
    data.save_as(tmp_path / "seg/labels.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match=r"labels\.dcm: is a DICOM Segmentation, which is not read as a mask\. Save"):
        read_mask(tmp_path / "seg/labels.dcm")
    with pytest.raises(InputError, match=r"seg: contains no DICOM image .*labels\.dcm\)\. Save such labels as a map"):
        read_mask(tmp_path / "seg")
    with pytest.raises(InputError, match=r"1 DICOM series without masks, and 1 .* such as seg/labels\.dcm, which"):
        recognise(tmp_path)
    first = first.rename(first.with_name("one.dcm"))
    with pytest.raises(InputError, match=r"one\.dcm: is a single DICOM file \(a slice\)\. Name the folder of its"):
        read_image(first)

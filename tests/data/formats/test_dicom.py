"""DICOM series as written by scanners: geometry, missing slices refused, segmentations written back."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid

from dicom_samples import DICOM_SHAPE, DICOM_SPACING, dicom_series
from mlla_seg.data.formats.dicom_files import is_series
from mlla_seg.data.formats.registry import is_readable, mask_path, read_image, write_mask
from mlla_seg.errors import InputError
from samples import classes_of

CLASSES = classes_of(["background", "liver", "left kidney"], [(0, 0, 0), (200, 60, 40), (40, 60, 200)])


@pytest.fixture
def series(tmp_path):
    return dicom_series(tmp_path / "ct")


def file_of(folder, number):
    return next(path for path in folder.iterdir() if pydicom.dcmread(path).InstanceNumber == number)


def test_series_is_one_image_in_hounsfield_units_and_in_place(series):
    assert is_readable(series) and is_series(series)
    picture = read_image(series)
    assert picture.array.shape == (6, 1, 10, 12)
    values = np.arange(np.prod(DICOM_SHAPE)).reshape(DICOM_SHAPE)
    np.testing.assert_array_equal(picture.array[:, 0], values * 2 + 1024 - (values * 2 + 1024) % 2 - 1024)
    assert picture.spacing_mm == pytest.approx(DICOM_SPACING)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series)))
    place = np.array(image.TransformIndexToPhysicalPoint((11, 2, 4)))  # left, posterior, superior
    np.testing.assert_allclose(picture.affine @ (4, 2, 11, 1), [-place[0], -place[1], place[2], 1], atol=1e-6)


def test_single_slice_has_the_thickness_it_says(series):
    for path in sorted(series.iterdir())[1:]:
        path.unlink()
    assert read_image(series).spacing_mm == pytest.approx(DICOM_SPACING)


def test_slices_that_are_missing_or_doubled_are_refused(series):
    shutil.move(file_of(series, 4), series.parent / "slice")
    with pytest.raises(InputError, match=r"ct: 1 slice missing between .* 5 mm apart where others are 2\.5 mm"):
        read_image(series)
    (series.parent / "slice").rename(series / "back")
    copy = pydicom.dcmread(series / "back")
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    copy.save_as(series / "again")
    with pytest.raises(InputError, match=r"again and back have the same position; no tag tells them apart\. Keep one"):
        read_image(series)


def test_positions_rounded_to_one_decimal_are_an_even_stack_and_thickness_0_is_none(series):
    bottom = min(float(pydicom.dcmread(path).ImagePositionPatient[2]) for path in series.iterdir())
    for path in series.iterdir():
        data = pydicom.dcmread(path)
        place = round((float(data.ImagePositionPatient[2]) - bottom) / 2.5)
        data.ImagePositionPatient = [*data.ImagePositionPatient[:2], round(bottom + place * 1.25 + 1e-6, 1)]
        data.SliceThickness = 0
        data.save_as(path)
    assert read_image(series).spacing_mm[0] == pytest.approx(1.25, abs=0.01)
    moved = file_of(series, 3)
    data = pydicom.dcmread(moved)
    data.ImagePositionPatient = [*data.ImagePositionPatient[:2], float(data.ImagePositionPatient[2]) + 0.4]
    data.save_as(moved)
    with pytest.raises(InputError, match="uneven spacing between"):
        read_image(series)
    for path in sorted(series.iterdir())[1:]:
        path.unlink()
    assert read_image(series).spacing_mm[0] == 1


def test_a_picture_without_a_place_among_the_slices_is_named(series):
    path = file_of(series, 5)
    data = pydicom.dcmread(path)
    del data.ImagePositionPatient
    data.save_as(path)
    with pytest.raises(InputError, match=rf"{path.name}: has no ImagePositionPatient, .*Remove screenshots"):
        read_image(series)


def test_tilted_gantry_is_refused(tmp_path):
    folder = dicom_series(tmp_path / "ct", tilt=0.5)
    with pytest.raises(InputError, match=r"the gantry was tilted by 11\.3 degrees, which shifts each slice by 0\.5 mm"):
        read_image(folder)


def test_several_series_and_slices_of_another_kind_are_refused(series, tmp_path):
    for path in dicom_series(tmp_path / "other", description="thorax").iterdir():
        shutil.copy(path, series / f"thorax{path.name}")
    with pytest.raises(InputError, match="contains 2 series") as caught:
        read_image(series)
    assert "abdomen: 6 files" in str(caught.value) and "thorax: 6 files" in str(caught.value)
    series = dicom_series(tmp_path / "third")
    path = file_of(series, 3)
    data = pydicom.dcmread(path)
    data.PixelSpacing = [1.0, 1.0]
    data.save_as(path)
    with pytest.raises(InputError, match="The slices of a series must match"):
        read_image(series)


def test_folder_without_dicom_is_no_image(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("x" * 200)
    assert not is_readable(tmp_path / "notes")


@pytest.mark.parametrize("format", [None, "seg.nrrd", "nrrd"])
def test_masks_of_a_series_lie_in_its_place(series, format):
    picture = read_image(series, "sagittal")
    output = mask_path(series, series.parent / "masks", format)
    assert output.name == {None: "ct.nii.gz"}.get(format, f"ct.{format}")
    write_mask(output, (picture.array[:, 0] == 444).astype(np.uint8), CLASSES, series, "sagittal")
    mask = sitk.ReadImage(str(output))
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series)))
    (found,) = np.argwhere(sitk.GetArrayFromImage(mask) == 1)
    (wanted,) = np.argwhere(sitk.GetArrayFromImage(image) == 444)
    np.testing.assert_allclose(
        mask.TransformIndexToPhysicalPoint(found[::-1].tolist()),
        image.TransformIndexToPhysicalPoint(wanted[::-1].tolist()),
        atol=1e-4,
    )


def test_orientations_may_differ_by_rounding(series):
    path = file_of(series, 3)
    data = pydicom.dcmread(path)
    data.ImageOrientationPatient = [0.999999, 0.0, 0.0, 0.0, 1.0, 0.0]
    data.save_as(path)
    assert read_image(series).array.shape[0] == 6
